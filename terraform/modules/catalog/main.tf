# The catalog in etcd: a cluster that exists already, or one of one or three members, each on a machine with a volume.
# etcd speaks plain http here, to the security groups that are named; for TLS bring a cluster of your own.

locals {
  made      = length(var.endpoints) == 0
  names     = local.made ? [for number in range(var.members) : "${var.name}-${number}"] : []
  hosts     = { for name in local.names : name => "${name}.${var.network.namespace_name}" }
  endpoints = local.made ? [for name in local.names : "${local.hosts[name]}:2379"] : var.endpoints
  scheme    = var.tls && !local.made ? "etcds" : "etcd"
  uid       = 10002
}

resource "aws_ecs_cluster" "this" {
  count = local.made ? 1 : 0

  name = var.name
  tags = var.tags

  setting {
    name  = "containerInsights" # the alarm on a dead member reads its numbers
    value = "enabled"
  }
}

module "machine" {
  source   = "../machine"
  for_each = { for number, name in local.names : name => number }

  name              = each.key
  cluster           = aws_ecs_cluster.this[0].name
  label             = each.key
  vpc_id            = var.network.vpc_id
  subnet_id         = var.network.subnet_ids[each.value]
  availability_zone = var.network.zones[each.value]
  instance_type     = var.machine.instance_type
  ami_parameter     = var.machine.ami_parameter
  volume_gb         = var.machine.volume_gb
  uid               = local.uid
  kms_key_arn       = var.kms_key_arn
  tags              = var.tags
}

module "member" {
  source   = "../task"
  for_each = { for number, name in local.names : name => number }

  name           = each.key
  image          = var.image
  health_command = ["etcdctl", "--endpoints=http://127.0.0.1:2379", "endpoint", "health"]
  has_statements = false
  ports          = [2379, 2380]
  client_ports   = [2379]
  uid            = local.uid
  cpu            = 512
  memory_mb      = 1024
  architecture   = var.machine.architecture
  cluster        = { arn = aws_ecs_cluster.this[0].arn, name = aws_ecs_cluster.this[0].name }
  machine_label  = each.key
  volume         = { path = "/var/lib/etcd", host_path = module.machine[each.key].mount }

  command = [
    "etcd",
    "--name=${each.key}",
    "--data-dir=/var/lib/etcd/data",
    "--listen-client-urls=http://0.0.0.0:2379",
    "--advertise-client-urls=http://${local.hosts[each.key]}:2379",
    "--listen-peer-urls=http://0.0.0.0:2380",
    "--initial-advertise-peer-urls=http://${local.hosts[each.key]}:2380",
    "--initial-cluster=${join(",", [for name in local.names : "${name}=http://${local.hosts[name]}:2380"])}",
    "--initial-cluster-state=new", # read only while the folder is empty
    "--initial-cluster-token=${var.name}",
    "--auto-compaction-mode=periodic",
    "--auto-compaction-retention=1h",
    "--quota-backend-bytes=4294967296",
  ]

  network = {
    vpc_id         = var.network.vpc_id
    subnet_ids     = [var.network.subnet_ids[each.value]]
    namespace_id   = var.network.namespace_id
    namespace_name = var.network.namespace_name
  }

  client_security_group_ids = var.client_security_group_ids
  security_group_ids        = aws_security_group.members[*].id
  egress_ports              = [443, 2379, 2380]
  log_retention_days        = var.log_retention_days
  kms_key_arn               = var.kms_key_arn
  alarm_topic_arn           = var.alarm_topic_arn
  tags                      = var.tags
}

resource "aws_security_group" "members" {
  count = local.made ? 1 : 0

  name        = "${var.name}-members"
  description = "Members of etcd reach each other"
  vpc_id      = var.network.vpc_id
  tags        = var.tags
}

resource "aws_vpc_security_group_ingress_rule" "members" {
  count = local.made ? 1 : 0

  security_group_id            = aws_security_group.members[0].id
  description                  = "Between members"
  referenced_security_group_id = aws_security_group.members[0].id
  ip_protocol                  = "tcp"
  from_port                    = 2379
  to_port                      = 2380
}
