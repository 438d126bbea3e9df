variable "name" {
  description = "Name of the function, its role and its log group."
  type        = string
}

variable "description" {
  description = "What it is, for who finds it in the console."
  type        = string
}

variable "handler" {
  description = "Python handler, such as service.aws.endpoint; with an image it is the command."
  type        = string
}

variable "image_uri" {
  description = "The image, in ECR; null: a zip in S3."
  type        = string
  default     = null
}

variable "package" {
  description = "A zip instead of an image: its bucket and key in S3, and its SHA-256 in base64, so that a new one is seen."
  type = object({
    bucket  = string
    key     = string
    sha256  = optional(string)
    runtime = optional(string, "python3.13")
  })
  default = null
}

variable "architecture" {
  description = "arm64 or x86_64, as the image or the zip was built."
  type        = string
  default     = "arm64"

  validation {
    condition     = contains(["arm64", "x86_64"], var.architecture)
    error_message = "The architecture is arm64 or x86_64."
  }
}

variable "memory_mb" {
  description = "Memory in MiB; 1769 give one core."
  type        = number

  validation {
    condition     = var.memory_mb >= 128 && var.memory_mb <= 10240
    error_message = "Lambda gives 128 to 10240 MiB."
  }
}

variable "timeout_s" {
  description = "Time limit of an invocation in seconds."
  type        = number

  validation {
    condition     = var.timeout_s >= 1 && var.timeout_s <= 900
    error_message = "Lambda gives 1 to 900 seconds."
  }
}

variable "spill_mb" {
  description = "Size of /tmp in MiB, where sorts and aggregations spill."
  type        = number
  default     = 2048

  validation {
    condition     = var.spill_mb >= 512 && var.spill_mb <= 10240
    error_message = "Lambda gives 512 to 10240 MiB of /tmp."
  }
}

variable "reserved_concurrency" {
  description = "Invocations at once, kept from the account's; -1: what the account has left, 0: none run."
  type        = number
  default     = -1
}

variable "environment" {
  description = "Environment variables."
  type        = map(string)
  sensitive   = true
}

variable "statements" {
  description = "IAM statements beside those for logs, traces and the network."
  type        = any
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

variable "alarm_period_s" {
  description = "What alarms count at a time, in seconds: two of five such periods with an error raise one. A function that runs seldom needs longer ones."
  type        = number
  default     = 60

  validation {
    condition     = var.alarm_period_s % 60 == 0 && var.alarm_period_s >= 60 && var.alarm_period_s <= 86400
    error_message = "Write a multiple of 60 seconds, at most a day."
  }
}

variable "alarm_on_throttles" {
  description = "Whether refused invocations are an alarm."
  type        = bool
  default     = true
}

variable "retries" {
  description = "How often Lambda itself repeats a failed asynchronous invocation."
  type        = number
  default     = 0
}

variable "tags" {
  description = "Tags of everything."
  type        = map(string)
  default     = {}
}
