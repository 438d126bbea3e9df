variable "name" {
  description = "Name of the service, its roles, log group and DNS record."
  type        = string
}

variable "image" {
  description = "The container's image."
  type        = string
}

variable "entry_point" {
  description = "Instead of the image's; empty: the image's."
  type        = list(string)
  default     = []
}

variable "command" {
  description = "What it runs."
  type        = list(string)
}

variable "health_command" {
  description = "Exits with 0 while the task is well."
  type        = list(string)
}

variable "environment" {
  description = "Environment variables."
  type        = map(string)
  default     = {}
}

variable "secrets" {
  description = "Environment variables whose values are in Secrets Manager or SSM: name → ARN."
  type        = map(string)
  default     = {}
}

variable "secrets_kms_key_arn" {
  description = "Key of the secrets, if it is not AWS's own."
  type        = string
  default     = null
}

variable "statements" {
  description = "IAM statements of the task's own role."
  type        = any
  default     = []
}

variable "has_statements" {
  description = "Whether there are such statements; known before they are."
  type        = bool
}

variable "ports" {
  description = "Ports that it listens on."
  type        = list(number)
}

variable "client_ports" {
  description = "Those of them that clients reach; null: all."
  type        = list(number)
  default     = null
}

variable "security_group_ids" {
  description = "Security groups that the task joins beside its own."
  type        = list(string)
  default     = []
}

variable "uid" {
  description = "User and group that it runs as; never 0."
  type        = number
  default     = 10001

  validation {
    condition     = var.uid > 0
    error_message = "Nothing runs as root."
  }
}

variable "cpu" {
  description = "CPU units; 1024 are a core."
  type        = number
  default     = 512
}

variable "memory_mb" {
  description = "Memory in MiB."
  type        = number
  default     = 1024
}

variable "architecture" {
  description = "arm64 or x86_64, as the image was built."
  type        = string
  default     = "arm64"
}

variable "volume" {
  description = "Where data lies that outlives the task: a folder of the machine, or an EFS access point; null: nowhere."
  type = object({
    path          = string
    host_path     = optional(string)
    efs_id        = optional(string)
    efs_access_id = optional(string)
  })
  default = null
}

variable "machine_label" {
  description = "Run on the machine with this attribute `firnline`; null: on Fargate."
  type        = string
  default     = null
}

variable "cluster" {
  description = "The ECS cluster."
  type = object({
    arn  = string
    name = string
  })
}

variable "network" {
  description = "The VPC, private subnets, and the Cloud Map namespace that names are registered in."
  type = object({
    vpc_id         = string
    subnet_ids     = list(string)
    namespace_id   = string
    namespace_name = string
  })
}

variable "client_security_group_ids" {
  description = "Security groups that may reach the ports: a name of yours → id."
  type        = map(string)
  default     = {}
}

variable "egress_ports" {
  description = "Ports that the task reaches."
  type        = list(number)
  default     = [443]
}

variable "running" {
  description = "Whether the task runs."
  type        = bool
  default     = true
}

variable "log_retention_days" {
  description = "How long logs are kept."
  type        = number
  default     = 30
}

variable "kms_key_arn" {
  description = "Key of the logs; null: AWS's own."
  type        = string
  default     = null
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
