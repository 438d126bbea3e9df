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

  mock_data "aws_secretsmanager_secret_version" {
    defaults = { secret_string = "only-in-tests-0123456789-abcdefghij" }
  }

  mock_data "aws_ssm_parameter" {
    defaults = { value = "ami-0123456789abcdef0" }
  }

  mock_resource "aws_iam_role" {
    defaults = { arn = "arn:aws:iam::123456789012:role/mock" }
  }

  mock_resource "aws_kms_key" {
    defaults = { arn = "arn:aws:kms:eu-central-1:123456789012:key/mock" }
  }

  mock_resource "aws_sns_topic" {
    defaults = { arn = "arn:aws:sns:eu-central-1:123456789012:alarms" }
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

  mock_resource "aws_ecs_cluster" {
    defaults = { arn = "arn:aws:ecs:eu-central-1:123456789012:cluster/mock" }
  }

  mock_resource "aws_ecs_task_definition" {
    defaults = { arn = "arn:aws:ecs:eu-central-1:123456789012:task-definition/mock:1" }
  }

  mock_resource "aws_service_discovery_service" {
    defaults = { arn = "arn:aws:servicediscovery:eu-central-1:123456789012:service/mock" }
  }
}

variables {
  region          = "eu-central-1"
  image_uri       = "123456789012.dkr.ecr.eu-central-1.amazonaws.com/firnline:1"
  task_secret_arn = "arn:aws:secretsmanager:eu-central-1:123456789012:secret:task"
}

run "dev_runs_nothing_all_the_time" {
  command = apply

  module {
    source = "./envs/dev"
  }

  variables {
    name = "ice-dev"
  }

  assert {
    condition     = output.lake == "s3://ice-dev-123456789012/lake"
    error_message = "The bucket's name has the account's number, since names are the world's."
  }

  assert {
    condition     = module.query.environment["FIRN_FUNCTIONS"] == "lambda:ice-dev-worker" && module.query.environment["FIRN_CATALOG"] == null
    error_message = "The endpoint sends tasks to the workers; the catalog is in the bucket."
  }
}

run "prod_has_a_key_etcd_and_a_log_service" {
  command = apply

  module {
    source = "./envs/prod"
  }

  variables {
    name        = "ice"
    log_service = true
    journal     = "ebs"

    network = {
      vpc_id     = "vpc-1"
      subnet_ids = ["subnet-a", "subnet-b", "subnet-c"]
      zones      = ["eu-central-1a", "eu-central-1b", "eu-central-1c"]
    }
  }

  assert {
    condition     = output.catalog == "etcd://ice-etcd-0.ice.internal:2379,ice-etcd-1.ice.internal:2379,ice-etcd-2.ice.internal:2379"
    error_message = "Three members keep the catalog."
  }

  assert {
    condition     = output.log_url == "http://ice-wal.ice.internal:8081" && module.query.environment["FIRN_LOG_OWN"] == "0"
    error_message = "The log service owns the log."
  }

  assert {
    condition     = contains(jsondecode(module.query.policy).Statement[*].Sid, "UseKey") && aws_kms_key.this.enable_key_rotation
    error_message = "The key is rotated, and the endpoint may use it."
  }
}

run "prod_lets_spans_out_to_where_they_are_sent" {
  command = apply

  module {
    source = "./envs/prod"
  }

  variables {
    name                 = "ice"
    log_service          = true
    reserved_concurrency = { query = -1, worker = -1 }

    telemetry = {
      OTEL_EXPORTER_OTLP_ENDPOINT        = "http://collector.ice.internal:4318"
      OTEL_EXPORTER_OTLP_TRACES_ENDPOINT = "http://[fd00::1]/v1/traces"
    }

    network = {
      vpc_id     = "vpc-1"
      subnet_ids = ["subnet-a", "subnet-b", "subnet-c"]
      zones      = ["eu-central-1a", "eu-central-1b", "eu-central-1c"]
    }
  }

  assert {
    condition     = { for name, rule in aws_vpc_security_group_egress_rule.functions : name => [rule.from_port, rule.to_port] } == { aws = [443, 443], etcd = [2379, 2379], log = [8081, 8081], telemetry-4318 = [4318, 4318], telemetry-80 = [80, 80] }
    error_message = "Functions reach AWS, etcd, the log and the collector."
  }

  assert {
    condition     = toset(module.wal[0].egress_ports) == toset([443, 2379, 4318, 80])
    error_message = "The log service reaches AWS, etcd and the collector."
  }

  assert {
    condition     = contains(jsondecode(module.query.policy).Statement[*].Sid, "AskAccount") && module.query.environment["FIRN_TASKS_MAX"] == null
    error_message = "Without a reserve the endpoint asks the account how many tasks run at once."
  }
}

run "prod_opens_nothing_for_a_collector_behind_https" {
  command = apply

  module {
    source = "./envs/prod"
  }

  variables {
    name      = "ice"
    telemetry = { OTEL_EXPORTER_OTLP_ENDPOINT = "https://otlp.example.org/in" }

    network = {
      vpc_id     = "vpc-1"
      subnet_ids = ["subnet-a", "subnet-b", "subnet-c"]
      zones      = ["eu-central-1a", "eu-central-1b", "eu-central-1c"]
    }
  }

  assert {
    condition     = toset(keys(aws_vpc_security_group_egress_rule.functions)) == toset(["aws", "etcd", "log"])
    error_message = "Port 443 is open already."
  }

  assert {
    condition     = !contains(jsondecode(module.query.policy).Statement[*].Sid, "AskAccount")
    error_message = "Workers with a reserve are asked themselves."
  }
}
