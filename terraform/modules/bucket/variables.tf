variable "name" {
  description = "Name of the bucket."
  type        = string
}

variable "prefix" {
  description = "The lake's prefix in the bucket, without slashes at its ends; empty: the whole bucket."
  type        = string
  default     = ""
}

variable "kms_key_arn" {
  description = "Key of SSE-KMS; null: AES256 with S3's own keys."
  type        = string
  default     = null
}

variable "versioning" {
  description = "Whether overwritten and deleted objects are kept for noncurrent_days. Tables have history of their own; this guards against a mistake with the bucket."
  type        = bool
  default     = false
}

variable "noncurrent_days" {
  description = "With versioning: how long what was overwritten or deleted is kept."
  type        = number
  default     = 30
}

variable "results_days" {
  description = "After how many days results and pages of tasks are removed."
  type        = number
  default     = 1
}

variable "force_destroy" {
  description = "Whether destroying the bucket deletes what is in it."
  type        = bool
  default     = false
}

variable "access_log_bucket" {
  description = "Bucket that S3 writes access logs to; null: none."
  type        = string
  default     = null
}

variable "tags" {
  description = "Tags of everything."
  type        = map(string)
  default     = {}
}
