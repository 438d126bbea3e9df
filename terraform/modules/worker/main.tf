# Stateless workers: they run signed tasks, read tables, and write pages of results. Nobody but the query function's
# role is given the right to invoke them.

data "aws_partition" "here" {}

module "access" {
  source = "../access"

  bucket      = var.bucket
  prefix      = var.prefix
  level       = var.jobs ? "jobs" : "results"
  allow       = var.allow
  kms_key_arn = var.bucket_kms_key_arn
  partition   = data.aws_partition.here.partition
}

locals {
  environment = merge(
    {
      FIRN_LAKE        = module.access.lake
      FIRN_ALLOW       = length(var.allow) == 0 ? null : join(",", var.allow)
      FIRN_TASK_SECRET = var.task_secret
      FIRN_SPILL_DIR   = "/tmp"
    },
    var.environment,
  )
}

module "function" {
  source = "../function"

  name                 = var.name
  description          = "Firnline's worker: pieces of statements"
  handler              = "functions.aws.worker"
  image_uri            = var.image_uri
  package              = var.package
  architecture         = var.architecture
  memory_mb            = var.memory_mb
  timeout_s            = var.timeout_s
  spill_mb             = var.spill_mb
  reserved_concurrency = var.reserved_concurrency
  environment          = { for name, value in local.environment : name => value if value != null }
  statements           = module.access.statements
  log_retention_days   = var.log_retention_days
  kms_key_arn          = var.kms_key_arn
  tracing              = var.tracing
  network              = var.network
  alarm_topic_arn      = var.alarm_topic_arn
  tags                 = var.tags
}
