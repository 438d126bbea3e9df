variable "name" {
  description = "Name of the function, its role, log group and alarms."
  type        = string
}

variable "bucket" {
  description = "Name of the lake's bucket."
  type        = string
}

variable "prefix" {
  description = "The lake's prefix in the bucket, without slashes at its ends; empty: the whole bucket."
  type        = string
  default     = ""
}

variable "bucket_kms_key_arn" {
  description = "Key that encrypts the bucket; null: none to ask for."
  type        = string
  default     = null
}

variable "allow" {
  description = "s3://bucket/prefix locations beside the lake that may be read."
  type        = list(string)
  default     = []
}

variable "image_uri" {
  description = "Firnline's image, in ECR of this account and region; null: the slim zip."
  type        = string
  default     = null
}

variable "architecture" {
  description = "arm64 or x86_64, as the image was built."
  type        = string
  default     = "arm64"
}

variable "spill_mb" {
  description = "Size of /tmp in MiB, where sorts and aggregations spill."
  type        = number
  default     = 2048
}

variable "environment" {
  description = "More environment variables, such as AWS_ENDPOINT_URL or OTEL_EXPORTER_OTLP_ENDPOINT."
  type        = map(string)
  default     = {}
}

variable "log_retention_days" {
  description = "How long logs are kept."
  type        = number
  default     = 30
}

variable "kms_key_arn" {
  description = "Key for logs and for the environment at rest; null: AWS's own keys."
  type        = string
  default     = null
}

variable "tracing" {
  description = "Whether X-Ray traces invocations."
  type        = bool
  default     = false
}

variable "network" {
  description = "Subnets and security groups, to reach an etcd or a log service; null: no VPC."
  type = object({
    subnet_ids         = list(string)
    security_group_ids = list(string)
  })
  default = null
}

variable "alarm_topic_arn" {
  description = "SNS topic of the alarms; null: they only show."
  type        = string
  default     = null
}

variable "tags" {
  description = "Tags of everything."
  type        = map(string)
  default     = {}
}

variable "memory_mb" {
  description = "Memory in MiB; 1769 give one core."
  type        = number
  default     = 1769
}

variable "timeout_s" {
  description = "Time limit of an invocation in seconds."
  type        = number
  default     = 900

  validation {
    condition     = var.timeout_s > 10
    error_message = "Statements and tasks end some seconds before the function does; give it more than 10."
  }
}

variable "task_secret" {
  description = "What tasks for workers are signed with, the same for all of a deployment."
  type        = string
  sensitive   = true

  validation {
    condition     = alltrue([for part in split(",", var.task_secret) : length(part) >= 32])
    error_message = "Firnline refuses secrets of less than 32 characters: make one with openssl rand -hex 32."
  }
}

variable "reserved_concurrency" {
  description = "Tasks at once, kept from the account's concurrency; -1: what the account has left."
  type        = number
  default     = 100
}

variable "package" {
  description = "The slim zip in S3 instead of the image."
  type = object({
    bucket  = string
    key     = string
    sha256  = optional(string)
    runtime = optional(string, "python3.13")
  })
  default = null
}

variable "jobs" {
  description = "Whether workers may add files to tables, as OPTIMIZE and CREATE INDEX ask of them. Else they read tables and write results, and the endpoint does again what S3 refuses them."
  type        = bool
  default     = false
}
