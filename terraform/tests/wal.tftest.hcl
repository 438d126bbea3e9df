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

  mock_data "aws_ssm_parameter" {
    defaults = { value = "ami-0123456789abcdef0" }
  }

  mock_resource "aws_iam_role" {
    defaults = { arn = "arn:aws:iam::123456789012:role/mock" }
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

  mock_resource "aws_efs_file_system" {
    defaults = { id = "fs-1" }
  }

  mock_resource "aws_efs_access_point" {
    defaults = { id = "fsap-1", arn = "arn:aws:elasticfilesystem:eu-central-1:123456789012:access-point/fsap-1" }
  }

  mock_resource "aws_security_group" {
    defaults = { id = "sg-mock" }
  }
}

variables {
  name                      = "wal"
  bucket                    = "ice"
  prefix                    = "lake"
  catalog                   = "etcd://etcd-0.ice.internal:2379"
  image                     = "123456789012.dkr.ecr.eu-central-1.amazonaws.com/firnline:1"
  client_security_group_ids = { query = "sg-query" }
  secrets                   = { FIRN_ETCD_PASSWORD = "arn:aws:secretsmanager:eu-central-1:123456789012:secret:etcd" }

  network = {
    vpc_id         = "vpc-1"
    subnet_ids     = ["subnet-a", "subnet-b"]
    zones          = ["eu-central-1a", "eu-central-1b"]
    namespace_id   = "ns-1"
    namespace_name = "ice.internal"
  }
}

run "acknowledges_from_the_bucket" {
  command = apply

  module {
    source = "./modules/wal"
  }

  assert {
    condition = jsonencode(output.container.environment) == jsonencode([
      { name = "AWS_REGION", value = "eu-central-1" },
      { name = "FIRN_CATALOG", value = "etcd://etcd-0.ice.internal:2379" },
      { name = "FIRN_LAKE", value = "s3://ice/lake" },
      { name = "FIRN_LOG_ACK", value = "object" },
      { name = "FIRN_LOG_URL", value = "http://wal.ice.internal:8081" },
    ])
    error_message = "Without a journal rows are acknowledged from the bucket."
  }

  assert {
    condition     = length(module.machine) == 0 && length(aws_efs_file_system.journal) == 0
    error_message = "No disk is made."
  }

  assert {
    condition     = output.container.readonlyRootFilesystem && output.container.user == "10001:10001" && length(output.container.linuxParameters.capabilities.drop) == 1
    error_message = "It is not root and writes to its volumes only."
  }

  assert {
    condition     = jsonencode([for each in jsondecode(output.policy).Statement : each.Sid]) == jsonencode(["ReadLake", "ListLake", "WriteLake", "DeleteFromLake"])
    error_message = "It writes the lake, and nothing else."
  }

  assert {
    condition     = jsondecode(module.task.start_policy).Statement[3].Action == ["secretsmanager:GetSecretValue"] && jsondecode(module.task.start_policy).Statement[3].Resource == ["arn:aws:secretsmanager:eu-central-1:123456789012:secret:etcd"]
    error_message = "ECS reads the secrets that are named, and no others."
  }

  assert {
    condition     = jsondecode(module.task.start_policy).Statement[2].Resource == ["arn:aws:ecr:eu-central-1:123456789012:repository/firnline"]
    error_message = "ECS pulls this image's repository only."
  }
}

run "keeps_a_journal_in_efs" {
  command = apply

  module {
    source = "./modules/wal"
  }

  variables {
    journal = "efs"
  }

  assert {
    condition     = aws_efs_file_system.journal[0].encrypted && aws_efs_access_point.journal[0].posix_user[0].uid == 10001 && length(aws_efs_mount_target.journal) == 2
    error_message = "The journal is encrypted, the log's own, and reachable from each subnet."
  }

  assert {
    condition     = one([for each in jsondecode(output.policy).Statement : each.Action if each.Sid == "MountJournal"]) == ["elasticfilesystem:ClientMount", "elasticfilesystem:ClientWrite"]
    error_message = "It may mount its journal."
  }

  assert {
    condition     = contains(output.container.environment[*].value, "fsync") && contains(output.container.environment[*].value, "/var/lib/firnline")
    error_message = "Rows are acknowledged from the journal."
  }
}

run "keeps_a_journal_on_a_machine" {
  command = apply

  module {
    source = "./modules/wal"
  }

  variables {
    journal = "ebs"
  }

  assert {
    condition     = length(module.machine) == 1 && module.machine[0].mount == "/var/lib/firnline"
    error_message = "A machine with a volume is made."
  }
}
