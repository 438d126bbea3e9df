# The log service: one task that owns the lake's logs, so that rows are acknowledged sooner and in larger groups.
# Without it functions own the log while they write; nothing but latency depends on it.

data "aws_partition" "here" {}
data "aws_region" "here" {}
data "aws_caller_identity" "me" {}

module "access" {
  source = "../access"

  bucket      = var.bucket
  prefix      = var.prefix
  level       = "write"
  kms_key_arn = var.bucket_kms_key_arn
  partition   = data.aws_partition.here.partition
}

locals {
  port    = 8081
  folder  = "/var/lib/firnline"
  efs     = var.journal == "efs" ? 1 : 0
  ebs     = var.journal == "ebs" ? 1 : 0
  url     = "http://${var.name}.${var.network.namespace_name}:${local.port}"
  efs_arn = "arn:${data.aws_partition.here.partition}:elasticfilesystem:${data.aws_region.here.name}:${data.aws_caller_identity.me.account_id}:file-system"

  environment = merge(
    {
      FIRN_LAKE        = module.access.lake
      FIRN_CATALOG     = var.catalog
      FIRN_LOG_URL     = local.url
      FIRN_LOG_ACK     = var.journal == "none" ? "object" : "fsync"
      FIRN_LOG_JOURNAL = var.journal == "none" ? null : local.folder
      AWS_REGION       = data.aws_region.here.name
    },
    var.environment,
  )

  # Where spans go, by the URLs that OpenTelemetry is told.
  telemetry_ports = [
    for name in ["OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT"] :
    try(tonumber(regex("^https?://(?:\\[[^\\]]*\\]|[^/:?#]+):([0-9]+)", var.environment[name])[0]), startswith(var.environment[name], "https:") ? 443 : 80)
    if contains(keys(var.environment), name)
  ]

  mount_journal = local.efs == 0 ? [] : [{
    Sid       = "MountJournal"
    Effect    = "Allow"
    Action    = ["elasticfilesystem:ClientMount", "elasticfilesystem:ClientWrite"]
    Resource  = ["${local.efs_arn}/${aws_efs_file_system.journal[0].id}"]
    Condition = { StringEquals = { "elasticfilesystem:AccessPointArn" = aws_efs_access_point.journal[0].arn } }
  }]
}

resource "aws_ecs_cluster" "this" {
  name = var.name
  tags = var.tags

  setting {
    name  = "containerInsights" # the alarm on a dead task reads its numbers
    value = "enabled"
  }
}

module "machine" {
  source = "../machine"
  count  = local.ebs

  name              = var.name
  cluster           = aws_ecs_cluster.this.name
  label             = var.name
  vpc_id            = var.network.vpc_id
  subnet_id         = var.network.subnet_ids[0]
  availability_zone = var.network.zones[0]
  instance_type     = var.machine.instance_type
  ami_parameter     = var.machine.ami_parameter
  volume_gb         = var.machine.volume_gb
  uid               = var.uid
  kms_key_arn       = var.kms_key_arn
  tags              = var.tags
}

resource "aws_efs_file_system" "journal" {
  count = local.efs

  encrypted        = true
  kms_key_id       = var.kms_key_arn
  performance_mode = "generalPurpose"
  throughput_mode  = "elastic"
  tags             = merge(var.tags, { Name = var.name })
}

resource "aws_efs_access_point" "journal" {
  count = local.efs

  file_system_id = aws_efs_file_system.journal[0].id
  tags           = var.tags

  posix_user {
    uid = var.uid
    gid = var.uid
  }

  root_directory {
    path = "/journal"

    creation_info {
      owner_uid   = var.uid
      owner_gid   = var.uid
      permissions = "0700"
    }
  }
}

resource "aws_security_group" "journal" {
  count = local.efs

  name        = "${var.name}-journal"
  description = "Firnline's journal: NFS from the log service"
  vpc_id      = var.network.vpc_id
  tags        = var.tags
}

resource "aws_vpc_security_group_ingress_rule" "journal" {
  count = local.efs

  security_group_id            = aws_security_group.journal[0].id
  description                  = "From the log service"
  referenced_security_group_id = module.task.security_group_id
  ip_protocol                  = "tcp"
  from_port                    = 2049
  to_port                      = 2049
}

resource "aws_efs_mount_target" "journal" {
  count = local.efs * length(var.network.subnet_ids)

  file_system_id  = aws_efs_file_system.journal[0].id
  subnet_id       = var.network.subnet_ids[count.index]
  security_groups = [aws_security_group.journal[0].id]
}

module "task" {
  source = "../task"

  name           = var.name
  image          = var.image
  entry_point    = var.entry_point
  command        = ["firn", "wal", "--host", "0.0.0.0", "--port", tostring(local.port)]
  health_command = ["python", "-c", "import urllib.request as r; r.urlopen('http://127.0.0.1:${local.port}/healthz', timeout=4)"]
  environment    = { for name, value in local.environment : name => value if value != null }
  secrets        = var.secrets
  statements     = concat(module.access.statements, local.mount_journal)
  has_statements = true
  ports          = [local.port]
  uid            = var.uid
  cpu            = var.cpu
  memory_mb      = var.memory_mb
  architecture   = var.architecture
  cluster        = { arn = aws_ecs_cluster.this.arn, name = aws_ecs_cluster.this.name }
  machine_label  = local.ebs == 1 ? var.name : null

  volume = {
    none = null
    efs = {
      path          = local.folder
      efs_id        = one(aws_efs_file_system.journal[*].id)
      efs_access_id = one(aws_efs_access_point.journal[*].id)
    }
    ebs = {
      path      = local.folder
      host_path = one(module.machine[*].mount)
    }
  }[var.journal]

  # A volume is in one zone, and so is the task that has it.
  network = {
    vpc_id         = var.network.vpc_id
    subnet_ids     = local.ebs == 1 ? [var.network.subnet_ids[0]] : var.network.subnet_ids
    namespace_id   = var.network.namespace_id
    namespace_name = var.network.namespace_name
  }

  client_security_group_ids = var.client_security_group_ids
  egress_ports              = concat([443], var.catalog == null ? [] : [2379], local.efs == 1 ? [2049] : [], local.telemetry_ports)
  running                   = var.running
  log_retention_days        = var.log_retention_days
  kms_key_arn               = var.kms_key_arn
  alarm_topic_arn           = var.alarm_topic_arn
  tags                      = var.tags
}

resource "aws_cloudwatch_log_metric_filter" "errors" {
  name           = "${var.name}-errors"
  log_group_name = "/firnline/${module.task.service}"
  pattern        = "{ $.level = \"error\" || $.level = \"critical\" }"

  metric_transformation {
    name      = "${var.name}-errors"
    namespace = "Firnline"
    value     = "1"
  }
}

resource "aws_cloudwatch_metric_alarm" "errors" {
  alarm_name          = "${var.name}-errors"
  alarm_description   = "The log service reports errors."
  namespace           = "Firnline"
  metric_name         = aws_cloudwatch_log_metric_filter.errors.metric_transformation[0].name
  statistic           = "Sum"
  period              = 60
  evaluation_periods  = 5
  datapoints_to_alarm = 2
  threshold           = 0
  comparison_operator = "GreaterThanThreshold"
  treat_missing_data  = "notBreaching"
  alarm_actions       = var.alarm_topic_arn == null ? [] : [var.alarm_topic_arn]
  tags                = var.tags
}
