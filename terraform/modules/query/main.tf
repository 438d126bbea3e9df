# The HTTP endpoint as a function: a Function URL, and an API Gateway where asked. It plans statements, runs small ones
# itself, and is the only one that may invoke workers.

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
  statement_timeout_ms = (var.timeout_s - 5) * 1000 # the answer still has to leave
  memory_limit_mb      = floor(var.memory_mb * 0.6)

  environment = merge(
    {
      FIRN_LAKE                 = module.access.lake
      FIRN_ALLOW                = length(var.allow) == 0 ? null : join(",", var.allow)
      FIRN_CATALOG              = var.catalog
      FIRN_ETCD_USER            = try(var.etcd.user, null)
      FIRN_ETCD_PASSWORD        = try(var.etcd.password, null)
      FIRN_REQUIRE_TOKENS       = var.auth == "token" ? "1" : "0"
      FIRN_FUNCTIONS            = var.worker == null ? "inline" : "lambda:${var.worker.name}"
      FIRN_TASK_SECRET          = var.task_secret
      FIRN_TASKS_MAX            = var.tasks_max <= 0 ? null : tostring(var.tasks_max)
      FIRN_MAX_COST             = var.max_cost_usd == 0 ? null : tostring(var.max_cost_usd)
      FIRN_STATEMENT_TIMEOUT_MS = tostring(local.statement_timeout_ms)
      FIRN_MEMORY_LIMIT         = "${local.memory_limit_mb}MiB"
      FIRN_SPILL_DIR            = "/tmp"
      FIRN_COMPACT              = "0"
      FIRN_LOG_ACK              = "object"
      FIRN_LOG_OWN              = var.log_service ? "0" : "1"
    },
    var.environment,
  )

  invoke_worker = var.worker == null ? [] : [{
    Sid    = "InvokeWorker"
    Effect = "Allow"
    # How many tasks it takes at once, and how much memory each has.
    Action   = ["lambda:InvokeFunction", "lambda:GetFunctionConcurrency", "lambda:GetFunctionConfiguration"]
    Resource = [var.worker.arn]
  }]

  # One without a reserve takes as many as the account has left; AWS knows no resource for the account's settings.
  ask_account = try(var.worker.reserved, true) ? [] : [{
    Sid      = "AskAccount"
    Effect   = "Allow"
    Action   = ["lambda:GetAccountSettings"]
    Resource = ["*"]
  }]
}

module "function" {
  source = "../function"

  name                 = var.name
  description          = "Firnline's endpoint: SQL over HTTP"
  handler              = "service.aws.endpoint"
  image_uri            = var.image_uri
  architecture         = var.architecture
  memory_mb            = var.memory_mb
  timeout_s            = var.timeout_s
  spill_mb             = var.spill_mb
  reserved_concurrency = var.reserved_concurrency
  environment          = { for name, value in local.environment : name => value if value != null }
  statements           = concat(module.access.statements, local.invoke_worker, local.ask_account)
  log_retention_days   = var.log_retention_days
  kms_key_arn          = var.kms_key_arn
  tracing              = var.tracing
  network              = var.network
  alarm_topic_arn      = var.alarm_topic_arn
  tags                 = var.tags
}

resource "terraform_data" "checks" {
  lifecycle {
    precondition {
      condition     = var.worker == null || var.task_secret != null
      error_message = "Workers run signed tasks only: set task_secret, at least 32 characters from a generator."
    }

    precondition {
      condition     = !var.api_gateway || var.timeout_s <= 30
      error_message = "An HTTP API waits for 30 seconds at most: set timeout_s to 30, or use the Function URL alone."
    }
  }
}

resource "aws_lambda_function_url" "this" {
  function_name      = module.function.name
  authorization_type = var.auth == "iam" ? "AWS_IAM" : "NONE"
  invoke_mode        = "BUFFERED"
}

# With tokens everybody reaches the URL; Firnline refuses whoever has no token. With "iam" a caller needs
# lambda:InvokeFunctionUrl and lambda:InvokeFunction in its own policy.
resource "aws_lambda_permission" "url" {
  count = var.auth == "token" ? 1 : 0

  statement_id           = "PublicUrl"
  action                 = "lambda:InvokeFunctionUrl"
  function_name          = module.function.name
  principal              = "*"
  function_url_auth_type = "NONE"
}

# URLs made since October 2025 also want the right to invoke, which is given for calls through the URL only. This
# provider cannot say so (its aws_lambda_permission can from 6.29 on), CloudFormation can.
resource "aws_cloudformation_stack" "url" {
  count = var.auth == "token" ? 1 : 0

  name = "${var.name}-url"
  tags = var.tags

  template_body = jsonencode({
    Resources = {
      InvokeThroughUrl = {
        Type = "AWS::Lambda::Permission"
        Properties = {
          Action                = "lambda:InvokeFunction"
          FunctionName          = module.function.name
          InvokedViaFunctionUrl = true
          Principal             = "*"
        }
      }
    }
  })
}

resource "aws_cloudwatch_metric_alarm" "url_5xx" {
  alarm_name          = "${var.name}-url-5xx"
  alarm_description   = "The Function URL answers 5xx."
  namespace           = "AWS/Lambda"
  metric_name         = "Url5xxCount"
  dimensions          = { FunctionName = module.function.name }
  statistic           = "Sum"
  period              = 60
  evaluation_periods  = 5
  datapoints_to_alarm = 2
  threshold           = 0
  comparison_operator = "GreaterThanThreshold"
  treat_missing_data  = "notBreaching"
  alarm_actions       = local.alarm_actions
  ok_actions          = local.alarm_actions
  tags                = var.tags
}
