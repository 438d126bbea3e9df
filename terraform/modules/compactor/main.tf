# The compactor: a scheduled function that folds the log into the tables, one at a time.

data "aws_partition" "here" {}

module "access" {
  source = "../access"

  bucket      = var.bucket
  prefix      = var.prefix
  level       = "write"
  allow       = var.allow
  kms_key_arn = var.bucket_kms_key_arn
  partition   = data.aws_partition.here.partition
}

locals {
  alarm_actions = var.alarm_topic_arn == null ? [] : [var.alarm_topic_arn]

  # Passes are minutes apart: alarms that count by the minute would never see two that fail.
  alarm_period_s = max(60, floor(var.late_after_s / 240) * 60)

  environment = merge(
    {
      FIRN_LAKE          = module.access.lake
      FIRN_ALLOW         = length(var.allow) == 0 ? null : join(",", var.allow)
      FIRN_CATALOG       = var.catalog
      FIRN_ETCD_USER     = try(var.etcd.user, null)
      FIRN_ETCD_PASSWORD = try(var.etcd.password, null)
      FIRN_MEMORY_LIMIT  = "${floor(var.memory_mb * 0.6)}MiB"
      FIRN_SPILL_DIR     = "/tmp"
      FIRN_FUNCTIONS     = "inline" # it has neither the tasks' secret nor the right to invoke workers
      FIRN_LOG_ACK       = "object"
      FIRN_LOG_OWN       = var.log_service ? "0" : "1"
    },
    var.environment,
  )
}

module "function" {
  source = "../function"

  name                 = var.name
  description          = "Firnline's compactor: folds the log into the tables"
  handler              = "service.aws.compactor"
  image_uri            = var.image_uri
  architecture         = var.architecture
  memory_mb            = var.memory_mb
  timeout_s            = var.timeout_s
  spill_mb             = var.spill_mb
  reserved_concurrency = 1
  environment          = { for name, value in local.environment : name => value if value != null }
  statements           = module.access.statements
  log_retention_days   = var.log_retention_days
  kms_key_arn          = var.kms_key_arn
  tracing              = var.tracing
  network              = var.network
  alarm_topic_arn      = var.alarm_topic_arn
  alarm_period_s       = local.alarm_period_s
  alarm_on_throttles   = false # a pass that finds another at work is refused, as it should be
  tags                 = var.tags
}

resource "aws_cloudwatch_event_rule" "this" {
  name                = var.name
  description         = "When Firnline's compactor runs"
  schedule_expression = var.schedule
  state               = var.enabled ? "ENABLED" : "DISABLED"
  tags                = var.tags
}

resource "aws_cloudwatch_event_target" "this" {
  rule = aws_cloudwatch_event_rule.this.name
  arn  = module.function.arn

  # A pass that could not start, because one is running, is not made up for: the next one does its work.
  retry_policy {
    maximum_retry_attempts       = 0
    maximum_event_age_in_seconds = 60
  }
}

resource "aws_lambda_permission" "schedule" {
  statement_id  = "Schedule"
  action        = "lambda:InvokeFunction"
  function_name = module.function.name
  principal     = "events.amazonaws.com"
  source_arn    = aws_cloudwatch_event_rule.this.arn
}

resource "aws_cloudwatch_metric_alarm" "log_lag" {
  count = var.enabled ? 1 : 0

  alarm_name          = "${var.name}-log-lag"
  alarm_description   = "No pass of the compactor succeeded in ${var.late_after_s} seconds: the log grows, and writers will be told to wait."
  comparison_operator = "LessThanThreshold"
  threshold           = 1
  evaluation_periods  = 1
  treat_missing_data  = "breaching"
  alarm_actions       = local.alarm_actions
  ok_actions          = local.alarm_actions
  tags                = var.tags

  metric_query {
    id          = "succeeded"
    label       = "passes that succeeded"
    expression  = "invocations - errors"
    return_data = true
  }

  dynamic "metric_query" {
    for_each = { invocations = "Invocations", errors = "Errors" }
    content {
      id = metric_query.key

      metric {
        namespace   = "AWS/Lambda"
        metric_name = metric_query.value
        dimensions  = { FunctionName = module.function.name }
        period      = var.late_after_s
        stat        = "Sum"
      }
    }
  }
}
