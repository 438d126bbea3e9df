variable "name" {
  description = "First part of the members' names."
  type        = string
}

variable "endpoints" {
  description = "host:port of each member of a cluster that exists already; empty: one is made."
  type        = list(string)
  default     = []
}

variable "tls" {
  description = "Whether the existing cluster speaks TLS."
  type        = bool
  default     = false
}

variable "keyspace" {
  description = "Where in etcd this lake's keys are; empty: at its root."
  type        = string
  default     = ""
}

variable "members" {
  description = "Members of the cluster that is made: 1, or 3, which survive the loss of one."
  type        = number
  default     = 1

  validation {
    condition     = contains([1, 3], var.members)
    error_message = "etcd wants an odd number of members: 1 or 3."
  }
}

variable "image" {
  description = "etcd's image."
  type        = string
  default     = "quay.io/coreos/etcd:v3.5.21"
}

variable "network" {
  description = "The VPC, private subnets with their zones, one for each member, and the Cloud Map namespace; null with endpoints."
  type = object({
    vpc_id         = string
    subnet_ids     = list(string)
    zones          = list(string)
    namespace_id   = string
    namespace_name = string
  })
  default = null

  validation {
    condition     = length(var.endpoints) > 0 || try(min(length(var.network.subnet_ids), length(var.network.zones)) >= var.members, false)
    error_message = "A cluster that is made needs a network with a private subnet and its zone for each member; or name the endpoints of one that exists."
  }
}

variable "client_security_group_ids" {
  description = "Security groups that may reach etcd: a name of yours → id."
  type        = map(string)
  default     = {}
}

variable "machine" {
  description = "Type of the machines, the SSM parameter of their image, and their volumes' size."
  type = object({
    instance_type = optional(string, "t4g.small")
    ami_parameter = optional(string, "/aws/service/ecs/optimized-ami/amazon-linux-2023/arm64/recommended/image_id")
    volume_gb     = optional(number, 10)
    architecture  = optional(string, "arm64")
  })
  default = {}
}

variable "log_retention_days" {
  description = "How long logs are kept."
  type        = number
  default     = 30
}

variable "kms_key_arn" {
  description = "Key for logs and volumes; null: AWS's own keys."
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
