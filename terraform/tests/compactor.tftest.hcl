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

variables {
  name      = "c"
  bucket    = "ice"
  prefix    = "lake"
  image_uri = "123456789012.dkr.ecr.eu-central-1.amazonaws.com/firnline:1"
}

run "runs_on_a_schedule_and_says_when_it_does_not" {
  command = apply

  module {
    source = "./modules/compactor"
  }

  assert {
    condition     = aws_cloudwatch_event_rule.this.schedule_expression == "rate(5 minutes)" && aws_cloudwatch_event_rule.this.state == "ENABLED"
    error_message = "It runs every five minutes."
  }

  assert {
    condition     = one(aws_cloudwatch_event_target.this.retry_policy).maximum_retry_attempts == 0
    error_message = "A missed pass is not made up for."
  }

  assert {
    condition     = aws_lambda_permission.schedule.principal == "events.amazonaws.com" && aws_lambda_permission.schedule.source_arn == "arn:aws:events:eu-central-1:123456789012:rule/mock"
    error_message = "Only its own schedule invokes it."
  }

  assert {
    condition     = aws_cloudwatch_metric_alarm.log_lag[0].treat_missing_data == "breaching" && aws_cloudwatch_metric_alarm.log_lag[0].threshold == 1
    error_message = "A log that nobody folds raises an alarm."
  }

  assert {
    condition     = length([for action in flatten(jsondecode(output.policy).Statement[*].Action) : action if startswith(action, "lambda:")]) == 0
    error_message = "It invokes nothing."
  }
}

run "has_no_alarm_when_it_is_off" {
  command = apply

  module {
    source = "./modules/compactor"
  }

  variables {
    enabled = false
  }

  assert {
    condition     = aws_cloudwatch_event_rule.this.state == "DISABLED" && length(aws_cloudwatch_metric_alarm.log_lag) == 0
    error_message = "What is off is not late."
  }
}
