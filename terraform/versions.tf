# Nothing is deployed from here: environments are in envs/. This file lets `terraform test` find the tests of all modules.
terraform {
  required_version = ">= 1.9"
  required_providers {
    aws = {
      source  = "hashicorp/aws"
      version = ">= 5.100, < 6.0"
    }
  }
}
