# A service of exactly one task, with a DNS name: the log service and each member of etcd are one.

data "aws_partition" "here" {}
data "aws_region" "here" {}
data "aws_caller_identity" "me" {}

locals {
  partition     = data.aws_partition.here.partition
  account       = data.aws_caller_identity.me.account_id
  host          = "${var.name}.${var.network.namespace_name}"
  log_group     = "/firnline/${var.name}"
  log_arn       = "arn:${local.partition}:logs:${data.aws_region.here.name}:${local.account}:log-group:${local.log_group}"
  on_machine    = var.machine_label != null
  alarm_actions = var.alarm_topic_arn == null ? [] : [var.alarm_topic_arn]

  secret_arns = { for kind in ["secretsmanager", "ssm"] : kind => [
    for arn in values(var.secrets) : arn if split(":", arn)[2] == kind
  ] }

  container = {
    name                   = var.name
    image                  = var.image
    essential              = true
    entryPoint             = length(var.entry_point) == 0 ? null : var.entry_point
    command                = var.command
    user                   = "${var.uid}:${var.uid}"
    readonlyRootFilesystem = true
    stopTimeout            = 60
    environment            = [for name in sort(keys(var.environment)) : { name = name, value = var.environment[name] }]
    secrets                = [for name in sort(keys(var.secrets)) : { name = name, valueFrom = var.secrets[name] }]
    portMappings           = [for port in var.ports : { containerPort = port, hostPort = port, protocol = "tcp" }]
    linuxParameters        = { initProcessEnabled = true, capabilities = { drop = ["ALL"] } }
    ulimits                = [{ name = "nofile", softLimit = 65536, hardLimit = 65536 }]
    healthCheck            = { command = concat(["CMD"], var.health_command), interval = 15, timeout = 5, retries = 3, startPeriod = 60 }
    mountPoints = concat(
      [{ sourceVolume = "tmp", containerPath = "/tmp", readOnly = false }],
      var.volume == null ? [] : [{ sourceVolume = "data", containerPath = var.volume.path, readOnly = false }],
    )
    logConfiguration = {
      logDriver = "awslogs"
      options = {
        awslogs-group         = local.log_group
        awslogs-region        = data.aws_region.here.name
        awslogs-stream-prefix = "task"
      }
    }
  }
}

resource "aws_cloudwatch_log_group" "this" {
  name              = local.log_group
  retention_in_days = var.log_retention_days
  kms_key_id        = var.kms_key_arn
  tags              = var.tags
}

resource "aws_ecs_task_definition" "this" {
  family                   = var.name
  requires_compatibilities = [local.on_machine ? "EC2" : "FARGATE"]
  network_mode             = "awsvpc"
  cpu                      = var.cpu
  memory                   = var.memory_mb
  execution_role_arn       = aws_iam_role.execution.arn
  task_role_arn            = aws_iam_role.task.arn
  container_definitions    = jsonencode([{ for name, value in local.container : name => value if value != null }])
  tags                     = var.tags

  runtime_platform {
    operating_system_family = "LINUX"
    cpu_architecture        = var.architecture == "arm64" ? "ARM64" : "X86_64"
  }

  volume {
    name = "tmp"
  }

  dynamic "volume" {
    for_each = var.volume == null ? [] : [var.volume]
    content {
      name      = "data"
      host_path = volume.value.host_path

      dynamic "efs_volume_configuration" {
        for_each = volume.value.efs_id == null ? [] : [volume.value]
        content {
          file_system_id     = efs_volume_configuration.value.efs_id
          transit_encryption = "ENABLED"

          authorization_config {
            access_point_id = efs_volume_configuration.value.efs_access_id
            iam             = "ENABLED"
          }
        }
      }
    }
  }
}

# Stopped before the next one starts: two owners of a log, or of a folder of etcd, would only wait for each other.
resource "aws_ecs_service" "this" {
  name                               = var.name
  cluster                            = var.cluster.arn
  task_definition                    = aws_ecs_task_definition.this.arn
  desired_count                      = var.running ? 1 : 0
  launch_type                        = local.on_machine ? "EC2" : "FARGATE"
  deployment_minimum_healthy_percent = 0
  deployment_maximum_percent         = 100
  enable_execute_command             = false
  propagate_tags                     = "SERVICE"
  tags                               = var.tags

  deployment_circuit_breaker {
    enable   = true
    rollback = true
  }

  network_configuration {
    subnets          = var.network.subnet_ids
    security_groups  = concat([aws_security_group.this.id], var.security_group_ids)
    assign_public_ip = false
  }

  service_registries {
    registry_arn = aws_service_discovery_service.this.arn
  }

  dynamic "placement_constraints" {
    for_each = local.on_machine ? [var.machine_label] : []
    content {
      type       = "memberOf"
      expression = "attribute:firnline == ${placement_constraints.value}"
    }
  }

  depends_on = [aws_iam_role_policy.execution]
}

resource "aws_service_discovery_service" "this" {
  name = var.name
  tags = var.tags

  dns_config {
    namespace_id   = var.network.namespace_id
    routing_policy = "MULTIVALUE"

    dns_records {
      type = "A"
      ttl  = 5
    }
  }

  health_check_custom_config {
    failure_threshold = 1
  }
}

resource "aws_security_group" "this" {
  name        = var.name
  description = "Firnline's ${var.name}"
  vpc_id      = var.network.vpc_id
  tags        = var.tags
}

resource "aws_vpc_security_group_ingress_rule" "clients" {
  for_each = { for pair in setproduct(keys(var.client_security_group_ids), coalesce(var.client_ports, var.ports)) : "${pair[0]}-${pair[1]}" => pair }

  security_group_id            = aws_security_group.this.id
  description                  = "From ${each.value[0]}"
  referenced_security_group_id = var.client_security_group_ids[each.value[0]]
  ip_protocol                  = "tcp"
  from_port                    = each.value[1]
  to_port                      = each.value[1]
}

resource "aws_vpc_security_group_egress_rule" "out" {
  for_each = toset([for port in var.egress_ports : tostring(port)])

  security_group_id = aws_security_group.this.id
  description       = "To port ${each.value}"
  cidr_ipv4         = "0.0.0.0/0"
  ip_protocol       = "tcp"
  from_port         = tonumber(each.value)
  to_port           = tonumber(each.value)
}

resource "aws_cloudwatch_metric_alarm" "dead" {
  count = var.running ? 1 : 0

  alarm_name          = "${var.name}-dead"
  alarm_description   = "${var.name} does not run."
  namespace           = "ECS/ContainerInsights"
  metric_name         = "RunningTaskCount"
  dimensions          = { ClusterName = var.cluster.name, ServiceName = aws_ecs_service.this.name }
  statistic           = "Minimum"
  period              = 60
  evaluation_periods  = 3
  threshold           = 1
  comparison_operator = "LessThanThreshold"
  treat_missing_data  = "breaching"
  alarm_actions       = local.alarm_actions
  ok_actions          = local.alarm_actions
  tags                = var.tags
}
