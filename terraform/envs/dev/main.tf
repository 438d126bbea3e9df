# For trying it out: nothing runs when nobody asks, the catalog is a blob in the bucket, and no VPC is needed.

data "aws_caller_identity" "me" {}

data "aws_secretsmanager_secret_version" "task" {
  secret_id = var.task_secret_arn
}

locals {
  tags   = { product = "firnline", environment = "dev" }
  prefix = "lake"
}

resource "aws_sns_topic" "alarms" {
  name              = "${var.name}-alarms"
  kms_master_key_id = null # CloudWatch cannot publish to a topic under AWS's own SNS key
}

resource "aws_sns_topic_subscription" "alarms" {
  for_each = toset(var.alarm_emails)

  topic_arn = aws_sns_topic.alarms.arn
  protocol  = "email"
  endpoint  = each.value
}

module "bucket" {
  source = "../../modules/bucket"

  name          = "${var.name}-${data.aws_caller_identity.me.account_id}"
  prefix        = local.prefix
  force_destroy = true
}

module "worker" {
  source = "../../modules/worker"

  name                 = "${var.name}-worker"
  bucket               = module.bucket.name
  prefix               = local.prefix
  allow                = var.allow
  image_uri            = var.image_uri
  architecture         = var.architecture
  task_secret          = data.aws_secretsmanager_secret_version.task.secret_string
  reserved_concurrency = 20
  jobs                 = true # OPTIMIZE and CREATE INDEX have workers write files
  environment          = var.telemetry
  log_retention_days   = 7
  alarm_topic_arn      = aws_sns_topic.alarms.arn
}

module "query" {
  source = "../../modules/query"

  name               = "${var.name}-query"
  bucket             = module.bucket.name
  prefix             = local.prefix
  allow              = var.allow
  image_uri          = var.image_uri
  architecture       = var.architecture
  auth               = var.auth
  worker             = { name = module.worker.name, arn = module.worker.arn, reserved = module.worker.reserved }
  task_secret        = data.aws_secretsmanager_secret_version.task.secret_string
  tasks_max          = 20
  max_cost_usd       = 1
  environment        = var.telemetry
  log_retention_days = 7
  alarm_topic_arn    = aws_sns_topic.alarms.arn
}

module "compactor" {
  source = "../../modules/compactor"

  name               = "${var.name}-compactor"
  bucket             = module.bucket.name
  prefix             = local.prefix
  allow              = var.allow
  image_uri          = var.image_uri
  architecture       = var.architecture
  schedule           = "rate(15 minutes)"
  environment        = var.telemetry
  log_retention_days = 7
  alarm_topic_arn    = aws_sns_topic.alarms.arn
}
