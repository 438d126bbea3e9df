# IAM statements for one role's access to a lake. They are data, so that a test can read them; nothing is created here.

locals {
  folder  = var.prefix == "" ? "" : "${var.prefix}/"
  bucket  = "arn:${var.partition}:s3:::${var.bucket}"
  lake    = "${local.bucket}/${local.folder}*"
  results = "${local.bucket}/${local.folder}_firnline/results/*"

  written = {
    read    = null
    results = local.results
    jobs    = local.lake
    write   = local.lake
  }[var.level]

  others = [for each in var.allow : trimsuffix(trimprefix(each, "s3://"), "/")]
  other_buckets = {
    for name in distinct([for each in local.others : split("/", each)[0]]) : name => [
      for each in local.others : join("/", slice(split("/", each), 1, length(split("/", each))))
      if split("/", each)[0] == name
    ]
  }

  read = [
    {
      Sid      = "ReadLake"
      Effect   = "Allow"
      Action   = ["s3:GetObject"]
      Resource = [local.lake]
    },
    {
      # Without the right to list, S3 answers 403 for an object that does not exist, and the formats ask for such
      # objects all the time. That request has no s3:prefix, hence "IfExists".
      Sid       = "ListLake"
      Effect    = "Allow"
      Action    = ["s3:ListBucket"]
      Resource  = [local.bucket]
      Condition = { StringLikeIfExists = { "s3:prefix" = var.prefix == "" ? ["*"] : [var.prefix, "${var.prefix}/*"] } }
    },
  ]

  write = concat(
    local.written == null ? [] : [{
      Sid      = "WriteLake"
      Effect   = "Allow"
      Action   = ["s3:PutObject", "s3:AbortMultipartUpload"]
      Resource = [local.written]
    }],
    var.level != "write" ? [] : [{
      Sid      = "DeleteFromLake"
      Effect   = "Allow"
      Action   = ["s3:DeleteObject"]
      Resource = [local.lake]
    }],
  )

  allowed = concat(
    length(local.others) == 0 ? [] : [{
      Sid      = "ReadAllowed"
      Effect   = "Allow"
      Action   = ["s3:GetObject"]
      Resource = [for each in local.others : "arn:${var.partition}:s3:::${each}/*"]
    }],
    [for name, prefixes in local.other_buckets : {
      Sid      = "List${replace(title(replace(name, "/[^a-z0-9]/", " ")), " ", "")}"
      Effect   = "Allow"
      Action   = ["s3:ListBucket"]
      Resource = ["arn:${var.partition}:s3:::${name}"]
      Condition = {
        StringLikeIfExists = {
          "s3:prefix" = contains(prefixes, "") ? ["*"] : flatten([for each in prefixes : [each, "${each}/*"]])
        }
      }
    }],
  )

  key = var.kms_key_arn == null ? [] : [{
    Sid      = "UseKey"
    Effect   = "Allow"
    Action   = var.level == "read" ? ["kms:Decrypt"] : ["kms:Decrypt", "kms:GenerateDataKey"]
    Resource = [var.kms_key_arn]
  }]
}
