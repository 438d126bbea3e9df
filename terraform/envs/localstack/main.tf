# The whole of it against an emulator on this machine: the bucket, the endpoint, workers and the compactor.

provider "aws" {
  region                      = "us-east-1"
  access_key                  = "test"
  secret_key                  = "test"
  s3_use_path_style           = true
  skip_credentials_validation = true
  skip_metadata_api_check     = true
  skip_region_validation      = true
  skip_requesting_account_id  = false

  endpoints {
    apigatewayv2     = var.endpoint
    cloudformation   = var.endpoint
    cloudwatch       = var.endpoint
    cloudwatchevents = var.endpoint
    cloudwatchlogs   = var.endpoint
    iam              = var.endpoint
    lambda           = var.endpoint
    s3               = var.endpoint
    sns              = var.endpoint
    sts              = var.endpoint
  }
}

locals {
  prefix = "lake"
  secret = "only-for-an-emulator-on-this-machine-000"

  environment = {
    AWS_ENDPOINT_URL_S3 = coalesce(var.s3_endpoint, var.endpoint)
    FIRN_ALLOW_HTTP     = "1"
  }
}

resource "aws_sns_topic" "alarms" {
  name = "${var.name}-alarms"
}

module "bucket" {
  source = "../../modules/bucket"

  name          = "${var.name}-lake"
  prefix        = local.prefix
  force_destroy = true
}

module "worker" {
  source = "../../modules/worker"

  name                 = "${var.name}-worker"
  bucket               = module.bucket.name
  prefix               = local.prefix
  image_uri            = var.image_uri
  architecture         = "x86_64"
  task_secret          = local.secret
  reserved_concurrency = 4
  jobs                 = true # OPTIMIZE and CREATE INDEX have workers write files
  environment          = local.environment
  alarm_topic_arn      = aws_sns_topic.alarms.arn
}

module "query" {
  source = "../../modules/query"

  name            = "${var.name}-query"
  bucket          = module.bucket.name
  prefix          = local.prefix
  image_uri       = var.image_uri
  architecture    = "x86_64"
  auth            = "token"
  worker          = { name = module.worker.name, arn = module.worker.arn, reserved = module.worker.reserved }
  task_secret     = local.secret
  environment     = local.environment
  alarm_topic_arn = aws_sns_topic.alarms.arn
}

module "compactor" {
  source = "../../modules/compactor"

  name            = "${var.name}-compactor"
  bucket          = module.bucket.name
  prefix          = local.prefix
  image_uri       = var.image_uri
  architecture    = "x86_64"
  environment     = local.environment
  alarm_topic_arn = aws_sns_topic.alarms.arn
}
