variable "name" {
  description = "Name of the machine, its role and its volume."
  type        = string
}

variable "cluster" {
  description = "Name of the ECS cluster that it joins."
  type        = string
}

variable "label" {
  description = "ECS attribute `firnline` of the machine, by which a service is placed on it."
  type        = string
}

variable "subnet_id" {
  description = "A private subnet; the volume is in its zone."
  type        = string
}

variable "availability_zone" {
  description = "The subnet's zone."
  type        = string
}

variable "vpc_id" {
  description = "The subnet's VPC."
  type        = string
}

variable "instance_type" {
  description = "Type of the machine."
  type        = string
  default     = "t4g.small"
}

variable "ami_parameter" {
  description = "SSM parameter with the id of an ECS-optimised Amazon Linux image of the type's architecture."
  type        = string
  default     = "/aws/service/ecs/optimized-ami/amazon-linux-2023/arm64/recommended/image_id"
}

variable "volume_gb" {
  description = "Size of the volume in GiB."
  type        = number
  default     = 20
}

variable "mount" {
  description = "Where the volume is mounted."
  type        = string
  default     = "/var/lib/firnline"
}

variable "uid" {
  description = "User of the container, who owns the volume's files."
  type        = number
}

variable "kms_key_arn" {
  description = "Key of the volume; null: AWS's own."
  type        = string
  default     = null
}

variable "tags" {
  description = "Tags of everything."
  type        = map(string)
  default     = {}
}
