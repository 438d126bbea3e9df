terraform {
  required_version = ">= 1.9"

  # The state holds the tasks' secret: keep it in an encrypted bucket that few can read.
  # terraform init -backend-config=bucket=… -backend-config=key=… -backend-config=region=…
  backend "s3" {
    encrypt      = true
    use_lockfile = true
  }

  required_providers {
    aws = {
      source  = "hashicorp/aws"
      version = ">= 5.100, < 6.0"
    }
  }
}

provider "aws" {
  region = var.region

  default_tags {
    tags = local.tags
  }
}
