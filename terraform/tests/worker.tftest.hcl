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
  name        = "w"
  bucket      = "ice"
  prefix      = "lake"
  image_uri   = "123456789012.dkr.ecr.eu-central-1.amazonaws.com/firnline:1"
  task_secret = "only-in-tests-0123456789-abcdefghij"
}

run "reads_tables_and_writes_results_only" {
  command = apply

  module {
    source = "./modules/worker"
  }

  assert {
    condition = { for each in jsondecode(output.policy).Statement : each.Sid => { actions = each.Action, resources = each.Resource } } == {
      WriteLogs = { actions = ["logs:CreateLogStream", "logs:PutLogEvents"], resources = ["arn:aws:logs:eu-central-1:123456789012:log-group:/aws/lambda/w:*"] }
      ReadLake  = { actions = ["s3:GetObject"], resources = ["arn:aws:s3:::ice/lake/*"] }
      ListLake  = { actions = ["s3:ListBucket"], resources = ["arn:aws:s3:::ice"] }
      WriteLake = { actions = ["s3:PutObject", "s3:AbortMultipartUpload"], resources = ["arn:aws:s3:::ice/lake/_firnline/results/*"] }
    }
    error_message = "A worker reads tables, writes results, deletes nothing and invokes nothing."
  }

  assert {
    condition     = { for name, value in output.environment : name => value if value != null } == { FIRN_LAKE = "s3://ice/lake", FIRN_TASK_SECRET = "only-in-tests-0123456789-abcdefghij", FIRN_SPILL_DIR = "/tmp" }
    error_message = "A worker knows the lake and the secret, and no catalog."
  }
}

run "adds_files_when_it_runs_jobs" {
  command = apply

  module {
    source = "./modules/worker"
  }

  variables {
    jobs               = true
    bucket_kms_key_arn = "arn:aws:kms:eu-central-1:123456789012:key/1"
  }

  assert {
    condition     = one([for each in jsondecode(output.policy).Statement : each.Resource if each.Sid == "WriteLake"]) == ["arn:aws:s3:::ice/lake/*"]
    error_message = "Jobs write data files."
  }

  assert {
    condition     = length([for action in flatten(jsondecode(output.policy).Statement[*].Action) : action if action == "s3:DeleteObject"]) == 0
    error_message = "Who commits deletes, not the worker."
  }

  assert {
    condition     = one([for each in jsondecode(output.policy).Statement : each if each.Sid == "UseKey"]).Resource == ["arn:aws:kms:eu-central-1:123456789012:key/1"]
    error_message = "It uses the bucket's key only."
  }
}
