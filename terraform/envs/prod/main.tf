# For work: a key of its own, versions kept, the catalog in etcd, functions in a VPC, and a log service where asked.

data "aws_caller_identity" "me" {}

data "aws_secretsmanager_secret_version" "task" {
  secret_id = var.task_secret_arn
}

locals {
  tags    = { product = "firnline", environment = "prod" }
  prefix  = "lake"
  bucket  = "${var.name}-${data.aws_caller_identity.me.account_id}"
  clients = { query = aws_security_group.functions.id }

  # Where spans go, by the URLs that OpenTelemetry is told.
  telemetry_ports = toset([
    for name in ["OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT"] :
    try(tonumber(regex("^https?://(?:\\[[^\\]]*\\]|[^/:?#]+):([0-9]+)", var.telemetry[name])[0]), startswith(var.telemetry[name], "https:") ? 443 : 80)
    if contains(keys(var.telemetry), name)
  ])
  ports = { aws = 443, etcd = 2379, log = 8081 }

  network = {
    subnet_ids         = var.network.subnet_ids
    security_group_ids = [aws_security_group.functions.id]
  }

  services = {
    vpc_id         = var.network.vpc_id
    subnet_ids     = var.network.subnet_ids
    zones          = var.network.zones
    namespace_id   = aws_service_discovery_private_dns_namespace.this.id
    namespace_name = aws_service_discovery_private_dns_namespace.this.name
  }
}

resource "aws_service_discovery_private_dns_namespace" "this" {
  name        = "${var.name}.internal"
  description = "Firnline's etcd and log service"
  vpc         = var.network.vpc_id
}

resource "aws_security_group" "functions" {
  name        = "${var.name}-functions"
  description = "Firnline's endpoint and compactor: nothing comes in"
  vpc_id      = var.network.vpc_id
}

resource "aws_vpc_security_group_egress_rule" "functions" {
  for_each = merge(local.ports, {
    for port in setsubtract(local.telemetry_ports, values(local.ports)) : "telemetry-${port}" => port
  })

  security_group_id = aws_security_group.functions.id
  description       = "To ${each.key}"
  cidr_ipv4         = "0.0.0.0/0"
  ip_protocol       = "tcp"
  from_port         = each.value
  to_port           = each.value
}

module "bucket" {
  source = "../../modules/bucket"

  name        = local.bucket
  prefix      = local.prefix
  kms_key_arn = aws_kms_key.this.arn
  versioning  = true
}

module "catalog" {
  source = "../../modules/catalog"

  name                      = "${var.name}-etcd"
  endpoints                 = var.etcd_endpoints
  tls                       = var.etcd_tls
  members                   = 3
  network                   = local.services
  client_security_group_ids = merge(local.clients, var.log_service ? { log = module.wal[0].security_group_id } : {})
  log_retention_days        = var.log_retention_days
  kms_key_arn               = aws_kms_key.this.arn
  alarm_topic_arn           = aws_sns_topic.alarms.arn
}

module "wal" {
  source = "../../modules/wal"
  count  = var.log_service ? 1 : 0

  name                      = "${var.name}-wal"
  bucket                    = local.bucket
  prefix                    = local.prefix
  bucket_kms_key_arn        = aws_kms_key.this.arn
  catalog                   = module.catalog.url
  journal                   = var.journal
  image                     = var.image_uri
  architecture              = var.architecture
  network                   = local.services
  client_security_group_ids = local.clients
  environment               = var.telemetry
  log_retention_days        = var.log_retention_days
  kms_key_arn               = aws_kms_key.this.arn
  alarm_topic_arn           = aws_sns_topic.alarms.arn
}

module "worker" {
  source = "../../modules/worker"

  name                 = "${var.name}-worker"
  bucket               = local.bucket
  prefix               = local.prefix
  bucket_kms_key_arn   = aws_kms_key.this.arn
  allow                = var.allow
  image_uri            = var.image_uri
  architecture         = var.architecture
  task_secret          = data.aws_secretsmanager_secret_version.task.secret_string
  reserved_concurrency = var.reserved_concurrency.worker
  jobs                 = true # OPTIMIZE and CREATE INDEX have workers write files
  environment          = var.telemetry
  log_retention_days   = var.log_retention_days
  kms_key_arn          = aws_kms_key.this.arn
  tracing              = var.tracing
  alarm_topic_arn      = aws_sns_topic.alarms.arn
}

module "query" {
  source = "../../modules/query"

  name                 = "${var.name}-query"
  bucket               = local.bucket
  prefix               = local.prefix
  bucket_kms_key_arn   = aws_kms_key.this.arn
  allow                = var.allow
  catalog              = module.catalog.url
  image_uri            = var.image_uri
  architecture         = var.architecture
  timeout_s            = var.api_gateway ? 30 : 300
  auth                 = var.auth
  api_gateway          = var.api_gateway
  log_service          = var.log_service
  worker               = { name = module.worker.name, arn = module.worker.arn, reserved = module.worker.reserved }
  task_secret          = data.aws_secretsmanager_secret_version.task.secret_string
  tasks_max            = var.reserved_concurrency.worker
  max_cost_usd         = var.max_cost_usd
  reserved_concurrency = var.reserved_concurrency.query
  environment          = var.telemetry
  network              = local.network
  log_retention_days   = var.log_retention_days
  kms_key_arn          = aws_kms_key.this.arn
  tracing              = var.tracing
  alarm_topic_arn      = aws_sns_topic.alarms.arn
}

module "compactor" {
  source = "../../modules/compactor"

  name               = "${var.name}-compactor"
  bucket             = local.bucket
  prefix             = local.prefix
  bucket_kms_key_arn = aws_kms_key.this.arn
  allow              = var.allow
  catalog            = module.catalog.url
  image_uri          = var.image_uri
  architecture       = var.architecture
  log_service        = var.log_service
  environment        = var.telemetry
  network            = local.network
  log_retention_days = var.log_retention_days
  kms_key_arn        = aws_kms_key.this.arn
  tracing            = var.tracing
  alarm_topic_arn    = aws_sns_topic.alarms.arn
}
