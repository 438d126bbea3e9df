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
  name        = "q"
  bucket      = "ice"
  prefix      = "lake"
  image_uri   = "123456789012.dkr.ecr.eu-central-1.amazonaws.com/firnline:1"
  worker      = { name = "w", arn = "arn:aws:lambda:eu-central-1:123456789012:function:w" }
  task_secret = "only-in-tests-0123456789-abcdefghij"
}

run "may_invoke_the_worker_only" {
  command = apply

  module {
    source = "./modules/query"
  }

  variables {
    allow = ["s3://open-data/taxi"]
  }

  assert {
    condition = { for each in jsondecode(output.policy).Statement : each.Sid => { actions = each.Action, resources = each.Resource } } == {
      WriteLogs      = { actions = ["logs:CreateLogStream", "logs:PutLogEvents"], resources = ["arn:aws:logs:eu-central-1:123456789012:log-group:/aws/lambda/q:*"] }
      ReadLake       = { actions = ["s3:GetObject"], resources = ["arn:aws:s3:::ice/lake/*"] }
      ListLake       = { actions = ["s3:ListBucket"], resources = ["arn:aws:s3:::ice"] }
      WriteLake      = { actions = ["s3:PutObject", "s3:AbortMultipartUpload"], resources = ["arn:aws:s3:::ice/lake/*"] }
      DeleteFromLake = { actions = ["s3:DeleteObject"], resources = ["arn:aws:s3:::ice/lake/*"] }
      ReadAllowed    = { actions = ["s3:GetObject"], resources = ["arn:aws:s3:::open-data/taxi/*"] }
      ListOpenData   = { actions = ["s3:ListBucket"], resources = ["arn:aws:s3:::open-data"] }
      InvokeWorker   = { actions = ["lambda:InvokeFunction", "lambda:GetFunctionConcurrency", "lambda:GetFunctionConfiguration"], resources = ["arn:aws:lambda:eu-central-1:123456789012:function:w"] }
    }
    error_message = "The endpoint's rights are these, and no others."
  }

  assert {
    condition = { for name, value in output.environment : name => value if value != null } == {
      FIRN_LAKE                 = "s3://ice/lake"
      FIRN_ALLOW                = "s3://open-data/taxi"
      FIRN_REQUIRE_TOKENS       = "0"
      FIRN_FUNCTIONS            = "lambda:w"
      FIRN_TASK_SECRET          = "only-in-tests-0123456789-abcdefghij"
      FIRN_STATEMENT_TIMEOUT_MS = "55000"
      FIRN_MEMORY_LIMIT         = "1804MiB"
      FIRN_SPILL_DIR            = "/tmp"
      FIRN_COMPACT              = "0"
      FIRN_LOG_ACK              = "object"
      FIRN_LOG_OWN              = "1"
    }
    error_message = "A statement ends before the function does, and nothing is folded in it."
  }

  assert {
    condition     = aws_lambda_function_url.this.authorization_type == "AWS_IAM" && length(aws_lambda_permission.url) == 0 && length(aws_cloudformation_stack.url) == 0
    error_message = "Unless told otherwise the URL asks for AWS's signatures."
  }

  assert {
    condition     = length(aws_apigatewayv2_api.this) == 0 && output.api_url == null
    error_message = "An API Gateway stands there only when asked for."
  }
}

run "asks_for_tokens_when_it_is_public" {
  command = apply

  module {
    source = "./modules/query"
  }

  variables {
    auth         = "token"
    timeout_s    = 30
    api_gateway  = true
    log_service  = true
    catalog      = "etcd://etcd-0.ice.internal:2379"
    max_cost_usd = 0.5
    tasks_max    = 64
  }

  assert {
    condition     = aws_lambda_function_url.this.authorization_type == "NONE" && output.environment["FIRN_REQUIRE_TOKENS"] == "1"
    error_message = "Whoever is public asks for tokens."
  }

  assert {
    condition     = jsondecode(aws_cloudformation_stack.url[0].template_body).Resources.InvokeThroughUrl.Properties.InvokedViaFunctionUrl == true
    error_message = "Everybody may invoke it through its URL, and in no other way."
  }

  assert {
    condition = (
      output.environment["FIRN_LOG_OWN"] == "0" && output.environment["FIRN_CATALOG"] == "etcd://etcd-0.ice.internal:2379" &&
      output.environment["FIRN_MAX_COST"] == "0.5" && output.environment["FIRN_TASKS_MAX"] == "64"
    )
    error_message = "The log service owns the log."
  }

  assert {
    condition = (
      aws_apigatewayv2_integration.this[0].payload_format_version == "2.0" &&
      aws_apigatewayv2_stage.this[0].default_route_settings[0].throttling_rate_limit == 100 &&
      aws_cloudwatch_log_group.api[0].retention_in_days == 30 &&
      length(aws_cloudwatch_metric_alarm.api_5xx) == 1
    )
    error_message = "The API Gateway speaks version 2, throttles, logs and alarms."
  }
}

run "an_api_gateway_does_not_wait_so_long" {
  command = plan

  module {
    source = "./modules/query"
  }

  variables {
    api_gateway = true
    timeout_s   = 60
  }

  expect_failures = [terraform_data.checks]
}

run "workers_need_a_secret" {
  command = plan

  module {
    source = "./modules/query"
  }

  variables {
    task_secret = null
  }

  expect_failures = [terraform_data.checks]
}

run "asks_the_account_where_the_worker_has_no_reserve" {
  command = apply

  module {
    source = "./modules/query"
  }

  variables {
    worker    = { name = "w", arn = "arn:aws:lambda:eu-central-1:123456789012:function:w", reserved = false }
    tasks_max = -1
  }

  assert {
    condition     = one([for each in jsondecode(output.policy).Statement : each if each.Sid == "AskAccount"]) == { Sid = "AskAccount", Effect = "Allow", Action = ["lambda:GetAccountSettings"], Resource = ["*"] }
    error_message = "How many tasks run at once is then the account's matter."
  }

  assert {
    condition     = output.environment["FIRN_TASKS_MAX"] == null
    error_message = "No reserve is no number of tasks."
  }
}

run "a_short_secret_is_refused" {
  command = plan

  module {
    source = "./modules/query"
  }

  variables {
    task_secret = "only-in-tests-0123456789-abcdefghij,too-short"
  }

  expect_failures = [var.task_secret]
}
