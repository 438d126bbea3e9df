variable "bucket" {
  description = "Name of the lake's bucket."
  type        = string
}

variable "prefix" {
  description = "The lake's prefix in the bucket, without slashes at its ends; empty: the whole bucket."
  type        = string
  default     = ""

  validation {
    condition     = var.prefix == trim(var.prefix, "/") && !strcontains(var.prefix, "*")
    error_message = "Write the prefix without slashes at its ends and without wildcards."
  }
}

variable "level" {
  description = "What may be done to the lake: read (and nothing else), results (read, and write pages of results), jobs (results, and add files anywhere), write (everything a writer does)."
  type        = string

  validation {
    condition     = contains(["read", "results", "jobs", "write"], var.level)
    error_message = "The level is read, results, jobs or write."
  }
}

variable "allow" {
  description = "s3://bucket/prefix locations beside the lake that may be read."
  type        = list(string)
  default     = []

  validation {
    condition     = alltrue([for each in var.allow : can(regex("^s3://[a-z0-9.-]+(/[^*?]*)?$", each))])
    error_message = "Write each location as s3://bucket/prefix, without wildcards."
  }
}

variable "kms_key_arn" {
  description = "The key that encrypts the bucket; null: keys of S3's own, which need no permission."
  type        = string
  default     = null
}

variable "partition" {
  description = "AWS partition of the ARNs."
  type        = string
  default     = "aws"
}
