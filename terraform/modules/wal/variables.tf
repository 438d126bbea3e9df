variable "name" {
  description = "Name of the service and of everything it needs."
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

variable "catalog" {
  description = "The catalog, such as etcd://host:2379; null: a blob in the lake."
  type        = string
  default     = null
}

variable "journal" {
  description = "Where rows are when they are acknowledged: none (in the bucket), efs, or ebs (a machine with a volume: the fastest). Only the first needs no disk."
  type        = string
  default     = "none"

  validation {
    condition     = contains(["none", "efs", "ebs"], var.journal)
    error_message = "The journal is none, efs or ebs."
  }
}

variable "image" {
  description = "Firnline's image."
  type        = string
}

variable "entry_point" {
  description = "Instead of the image's; empty: the image's."
  type        = list(string)
  default     = []
}

variable "architecture" {
  description = "arm64 or x86_64, as the image was built."
  type        = string
  default     = "arm64"
}

variable "cpu" {
  description = "CPU units; 1024 are a core."
  type        = number
  default     = 1024
}

variable "memory_mb" {
  description = "Memory in MiB."
  type        = number
  default     = 2048
}

variable "uid" {
  description = "User of the image."
  type        = number
  default     = 10001
}

variable "network" {
  description = "The VPC, private subnets with their zones (the first one has the volume), and the Cloud Map namespace."
  type = object({
    vpc_id         = string
    subnet_ids     = list(string)
    zones          = list(string)
    namespace_id   = string
    namespace_name = string
  })
}

variable "client_security_group_ids" {
  description = "Security groups that may write: a name of yours → id."
  type        = map(string)
}

variable "machine" {
  description = "With ebs: the machine's type, the SSM parameter of its image, and its volume's size."
  type = object({
    instance_type = optional(string, "t4g.medium")
    ami_parameter = optional(string, "/aws/service/ecs/optimized-ami/amazon-linux-2023/arm64/recommended/image_id")
    volume_gb     = optional(number, 20)
  })
  default = {}
}

variable "secrets" {
  description = "Environment variables whose values are in Secrets Manager or SSM, such as FIRN_ETCD_PASSWORD: name → ARN."
  type        = map(string)
  default     = {}
}

variable "environment" {
  description = "More environment variables."
  type        = map(string)
  default     = {}
}

variable "running" {
  description = "Whether it runs."
  type        = bool
  default     = true
}

variable "log_retention_days" {
  description = "How long logs are kept."
  type        = number
  default     = 30
}

variable "kms_key_arn" {
  description = "Key for logs, the volume and the file system; null: AWS's own keys."
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
