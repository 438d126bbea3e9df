variable "region" {
  description = "AWS region."
  type        = string
}

variable "name" {
  description = "First part of every name; with the account's number it names the bucket."
  type        = string
  default     = "firnline-dev"
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
  default     = "token"
}

variable "alarm_emails" {
  description = "Who is told of alarms."
  type        = list(string)
  default     = []
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
