variable "region" {
  description = "AWS region."
  type        = string
}

variable "name" {
  description = "First part of every name; with the account's number it names the bucket."
  type        = string
  default     = "firnline"
}

variable "image_uri" {
  description = "Firnline's image, in ECR of this account and region."
  type        = string
}

variable "architecture" {
  description = "arm64 or x86_64, as the image was built."
  type        = string
  default     = "arm64"
}

variable "task_secret_arn" {
  description = "Secret in Secrets Manager that tasks for workers are signed with; a random text of at least 32 characters."
  type        = string
}

variable "allow" {
  description = "s3://bucket/prefix locations beside the lake that statements may read."
  type        = list(string)
  default     = []
}

variable "auth" {
  description = "token: anyone reaches the URL and Firnline asks for its API tokens; iam: AWS signatures only."
  type        = string
  default     = "iam"
}

variable "alarm_emails" {
  description = "Who is told of alarms."
  type        = list(string)
  default     = []
}

variable "network" {
  description = "The VPC and its private subnets with their zones. They need a way to S3, ECR, CloudWatch Logs and Lambda: endpoints, or NAT."
  type = object({
    vpc_id     = string
    subnet_ids = list(string)
    zones      = list(string)
  })
}

variable "etcd_endpoints" {
  description = "host:port of each member of an etcd that exists already; empty: one of three members is made."
  type        = list(string)
  default     = []
}

variable "etcd_tls" {
  description = "Whether that etcd speaks TLS, with a certificate that the image's own authorities signed."
  type        = bool
  default     = false
}

variable "log_service" {
  description = "Whether a log service runs all the time, for writes that are acknowledged in milliseconds."
  type        = bool
  default     = false
}

variable "journal" {
  description = "Where the log service acknowledges: none (the bucket), efs or ebs."
  type        = string
  default     = "none"
}

variable "reserved_concurrency" {
  description = "Invocations at once, kept from the account's concurrency: of the endpoint and of workers."
  type = object({
    query  = number
    worker = number
  })
  default = { query = 50, worker = 500 }
}

variable "max_cost_usd" {
  description = "Refuse statements that are estimated to cost more; 0: no limit."
  type        = number
  default     = 10
}

variable "api_gateway" {
  description = "Whether an API Gateway stands before the endpoint too; statements then take 30 seconds at most."
  type        = bool
  default     = false
}

variable "tracing" {
  description = "Whether X-Ray traces invocations."
  type        = bool
  default     = true
}

variable "telemetry" {
  description = "OpenTelemetry's variables for all parts, such as OTEL_EXPORTER_OTLP_ENDPOINT and OTEL_TRACES_SAMPLER; empty: no traces."
  type        = map(string)
  default     = {}

  validation {
    condition     = alltrue([for name in keys(var.telemetry) : startswith(name, "OTEL_")])
    error_message = "Telemetry takes variables whose names begin with OTEL_."
  }
}

variable "log_retention_days" {
  description = "How long logs are kept."
  type        = number
  default     = 90
}
