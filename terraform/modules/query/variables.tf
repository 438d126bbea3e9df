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

variable "catalog" {
  description = "The catalog, such as etcd://host:2379; null: a blob in the lake."
  type        = string
  default     = null
}

variable "etcd" {
  description = "A user of etcd's own; null: none."
  type = object({
    user     = string
    password = string
  })
  default   = null
  sensitive = true
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
  default     = 3008
}

variable "timeout_s" {
  description = "Time limit of an invocation in seconds."
  type        = number
  default     = 60

  validation {
    condition     = var.timeout_s > 10
    error_message = "Statements and tasks end some seconds before the function does; give it more than 10."
  }
}

variable "reserved_concurrency" {
  description = "Statements at once, kept from the account's concurrency; -1: what the account has left."
  type        = number
  default     = -1
}

variable "worker" {
  description = "The worker function's name and ARN, and whether it has a reserve of concurrency; null: statements run in the query function alone."
  type = object({
    name     = string
    arn      = string
    reserved = optional(bool, true)
  })
  default = null
}

variable "task_secret" {
  description = "What tasks for workers are signed with, the same for all of a deployment."
  type        = string
  sensitive   = true
  default     = null

  validation {
    condition     = var.task_secret == null ? true : alltrue([for part in split(",", var.task_secret) : length(part) >= 32])
    error_message = "Firnline refuses secrets of less than 32 characters: make one with openssl rand -hex 32."
  }
}

variable "tasks_max" {
  description = "Tasks of a statement at once; 0 or less: Firnline's default."
  type        = number
  default     = 0
}

variable "max_cost_usd" {
  description = "Refuse statements that are estimated to cost more; 0: no limit."
  type        = number
  default     = 0
}

variable "auth" {
  description = "token: anyone reaches the URL and Firnline asks for its API tokens; iam: AWS signatures only."
  type        = string
  default     = "iam"

  validation {
    condition     = contains(["token", "iam"], var.auth)
    error_message = "The auth is token or iam."
  }
}

variable "log_service" {
  description = "Whether a log service runs, through which all rows are written; false: the function owns the log while it writes."
  type        = bool
  default     = false
}

variable "api_gateway" {
  description = "Whether an API Gateway (HTTP API) stands before the function too: custom domains, throttling, access logs."
  type        = bool
  default     = false
}

variable "api_rate" {
  description = "Requests a second that the API Gateway lets through, and at once."
  type = object({
    per_second = number
    burst      = number
  })
  default = { per_second = 100, burst = 200 }
}
