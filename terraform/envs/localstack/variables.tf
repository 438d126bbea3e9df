variable "endpoint" {
  description = "URL of LocalStack, moto, or anything that speaks AWS's APIs."
  type        = string
  default     = "http://127.0.0.1:4566"
}

variable "name" {
  description = "First part of every name."
  type        = string
  default     = "firnline"
}

variable "image_uri" {
  description = "Firnline's image."
  type        = string
  default     = "000000000000.dkr.ecr.us-east-1.amazonaws.com/firnline:local"
}

variable "s3_endpoint" {
  description = "Where the functions themselves find S3; null: at the same endpoint."
  type        = string
  default     = null
}
