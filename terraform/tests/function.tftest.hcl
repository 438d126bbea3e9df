mock_provider "aws" {
  mock_data "aws_partition" {
    defaults = { partition = "aws" }
  }

  mock_data "aws_region" {
    defaults = { name = "eu-central-1" }
  }

  mock_data "aws_caller_identity" {
    defaults = { account_id = "123456789012" }
  }

  mock_resource "aws_iam_role" {
    defaults = { arn = "arn:aws:iam::123456789012:role/mock" }
  }

  mock_resource "aws_lambda_function" {
    defaults = {
      arn        = "arn:aws:lambda:eu-central-1:123456789012:function:mock"
      invoke_arn = "arn:aws:apigateway:eu-central-1:lambda:path/2015-03-31/functions/mock/invocations"
    }
  }

  mock_resource "aws_cloudwatch_event_rule" {
    defaults = { arn = "arn:aws:events:eu-central-1:123456789012:rule/mock" }
  }

  mock_resource "aws_cloudwatch_log_group" {
    defaults = { arn = "arn:aws:logs:eu-central-1:123456789012:log-group:mock" }
  }

  mock_resource "aws_apigatewayv2_api" {
    defaults = { execution_arn = "arn:aws:execute-api:eu-central-1:123456789012:mock" }
  }
}

run "sets_limits_and_keeps_logs" {
  command = apply

  module {
    source = "./modules/function"
  }

  variables {
    name                 = "f"
    description          = "a function"
    handler              = "service.aws.endpoint"
    image_uri            = "123456789012.dkr.ecr.eu-central-1.amazonaws.com/firnline:1"
    memory_mb            = 1769
    timeout_s            = 100
    reserved_concurrency = 7
    environment          = { FIRN_LAKE = "s3://ice/lake" }
    statements           = []
    log_retention_days   = 14
    alarm_topic_arn      = "arn:aws:sns:eu-central-1:123456789012:alarms"
  }

  assert {
    condition = (
      aws_lambda_function.this.package_type == "Image" &&
      aws_lambda_function.this.image_config[0].command == tolist(["service.aws.endpoint"]) &&
      aws_lambda_function.this.architectures == tolist(["arm64"]) &&
      aws_lambda_function.this.memory_size == 1769 &&
      aws_lambda_function.this.timeout == 100 &&
      aws_lambda_function.this.reserved_concurrent_executions == 7 &&
      aws_lambda_function.this.environment[0].variables == tomap({ FIRN_LAKE = "s3://ice/lake" })
    )
    error_message = "The function is what was asked for."
  }

  assert {
    condition     = aws_cloudwatch_log_group.this.name == "/aws/lambda/f" && aws_cloudwatch_log_group.this.retention_in_days == 14
    error_message = "Logs are kept for a while, not for ever."
  }

  assert {
    condition = jsondecode(aws_iam_role_policy.this.policy).Statement == [{
      Sid      = "WriteLogs"
      Effect   = "Allow"
      Action   = ["logs:CreateLogStream", "logs:PutLogEvents"]
      Resource = ["arn:aws:logs:eu-central-1:123456789012:log-group:/aws/lambda/f:*"]
    }]
    error_message = "Without more it may only write its own log."
  }

  assert {
    condition     = aws_lambda_function_event_invoke_config.this.maximum_retry_attempts == 0
    error_message = "Lambda repeats nothing by itself."
  }

  assert {
    condition = (
      keys(aws_cloudwatch_metric_alarm.counted) == ["errors", "throttles"] &&
      aws_cloudwatch_metric_alarm.duration.threshold == 80000 &&
      aws_cloudwatch_metric_alarm.duration.extended_statistic == "p99" &&
      alltrue([for each in values(aws_cloudwatch_metric_alarm.counted) : contains(each.alarm_actions, "arn:aws:sns:eu-central-1:123456789012:alarms")])
    )
    error_message = "Errors, throttles and slowness raise an alarm."
  }
}

run "runs_a_zip_in_a_network_with_traces" {
  command = apply

  module {
    source = "./modules/function"
  }

  variables {
    name         = "f"
    description  = "a function"
    handler      = "functions.aws.worker"
    package      = { bucket = "code", key = "worker.zip" }
    architecture = "x86_64"
    memory_mb    = 1769
    timeout_s    = 100
    environment  = {}
    statements   = []
    tracing      = true
    network      = { subnet_ids = ["subnet-1"], security_group_ids = ["sg-1"] }
  }

  assert {
    condition = (
      aws_lambda_function.this.package_type == "Zip" &&
      aws_lambda_function.this.handler == "functions.aws.worker" &&
      aws_lambda_function.this.runtime == "python3.13" &&
      aws_lambda_function.this.tracing_config[0].mode == "Active" &&
      aws_lambda_function.this.vpc_config[0].subnet_ids == toset(["subnet-1"])
    )
    error_message = "A zip has a handler and a runtime."
  }

  assert {
    condition     = [for each in jsondecode(aws_iam_role_policy.this.policy).Statement : each.Sid if contains(each.Resource, "*")] == ["WriteTraces", "JoinNetwork"]
    error_message = "Only what knows no resources is granted on all."
  }

  assert {
    condition     = alltrue([for action in flatten(jsondecode(aws_iam_role_policy.this.policy).Statement[*].Action) : !strcontains(action, "*")])
    error_message = "No action has a wildcard."
  }
}

run "an_image_and_a_zip_are_refused" {
  command = plan

  module {
    source = "./modules/function"
  }

  variables {
    name        = "f"
    description = "a function"
    handler     = "functions.aws.worker"
    image_uri   = "123456789012.dkr.ecr.eu-central-1.amazonaws.com/firnline:1"
    package     = { bucket = "code", key = "worker.zip" }
    memory_mb   = 1769
    timeout_s   = 100
    environment = {}
    statements  = []
  }

  expect_failures = [aws_lambda_function.this]
}

run "alarms_of_what_runs_seldom_count_for_longer" {
  command = apply

  module {
    source = "./modules/function"
  }

  variables {
    name           = "f"
    description    = "a function"
    handler        = "service.aws.compactor"
    image_uri      = "123456789012.dkr.ecr.eu-central-1.amazonaws.com/firnline:1"
    memory_mb      = 1769
    timeout_s      = 900
    environment    = {}
    statements     = []
    alarm_period_s = 900
  }

  assert {
    condition     = aws_cloudwatch_metric_alarm.counted["errors"].period == 900 && aws_cloudwatch_metric_alarm.duration.period == 900
    error_message = "Two of five periods are two runs, and not two minutes."
  }
}
