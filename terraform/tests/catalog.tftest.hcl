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

run "takes_a_cluster_that_exists" {
  command = apply

  module {
    source = "./modules/catalog"
  }

  variables {
    name      = "etcd"
    endpoints = ["a.example.org:2379", "b.example.org:2379"]
    tls       = true
    keyspace  = "ice"
  }

  assert {
    condition     = output.url == "etcds://a.example.org:2379,b.example.org:2379/ice" && length(module.member) == 0 && length(aws_ecs_cluster.this) == 0
    error_message = "Nothing is made."
  }
}

run "makes_three_members" {
  command = apply

  module {
    source = "./modules/catalog"
  }

  variables {
    name    = "etcd"
    members = 3

    client_security_group_ids = { query = "sg-query" }

    network = {
      vpc_id         = "vpc-1"
      subnet_ids     = ["subnet-a", "subnet-b", "subnet-c"]
      zones          = ["eu-central-1a", "eu-central-1b", "eu-central-1c"]
      namespace_id   = "ns-1"
      namespace_name = "ice.internal"
    }
  }

  assert {
    condition     = output.url == "etcd://etcd-0.ice.internal:2379,etcd-1.ice.internal:2379,etcd-2.ice.internal:2379"
    error_message = "Clients know every member."
  }

  assert {
    condition     = contains(output.containers["etcd-1"].command, "--initial-cluster=etcd-0=http://etcd-0.ice.internal:2380,etcd-1=http://etcd-1.ice.internal:2380,etcd-2=http://etcd-2.ice.internal:2380")
    error_message = "Members know each other."
  }

  assert {
    condition     = alltrue([for each in output.containers : each.readonlyRootFilesystem && each.user == "10002:10002"])
    error_message = "Members are not root and write to their volumes only."
  }

  assert {
    condition     = aws_vpc_security_group_ingress_rule.members[0].from_port == 2379 && aws_vpc_security_group_ingress_rule.members[0].to_port == 2380
    error_message = "Members reach each other."
  }
}

run "a_cluster_needs_a_subnet_for_each_member" {
  command = plan

  module {
    source = "./modules/catalog"
  }

  variables {
    name    = "etcd"
    members = 3
    network = { vpc_id = "vpc-1", subnet_ids = ["subnet-a"], zones = ["eu-central-1a"], namespace_id = "ns-1", namespace_name = "ice.internal" }
  }

  expect_failures = [var.network]
}
