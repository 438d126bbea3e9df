run "a_reader_of_a_prefix" {
  command = plan

  module {
    source = "./modules/access"
  }

  variables {
    bucket = "ice"
    prefix = "lake"
    level  = "read"
  }

  assert {
    condition = jsonencode(output.statements) == jsonencode([
      { Sid = "ReadLake", Effect = "Allow", Action = ["s3:GetObject"], Resource = ["arn:aws:s3:::ice/lake/*"] },
      {
        Sid       = "ListLake"
        Effect    = "Allow"
        Action    = ["s3:ListBucket"]
        Resource  = ["arn:aws:s3:::ice"]
        Condition = { StringLikeIfExists = { "s3:prefix" = ["lake", "lake/*"] } }
      },
    ])
    error_message = "It reads and lists its prefix, and nothing else."
  }

  assert {
    condition     = output.lake == "s3://ice/lake"
    error_message = "The location is as FIRN_LAKE has it."
  }
}

run "a_writer_with_a_key_and_more_to_read" {
  command = plan

  module {
    source = "./modules/access"
  }

  variables {
    bucket      = "ice"
    level       = "write"
    allow       = ["s3://open-data/taxi/", "s3://open-data/weather"]
    kms_key_arn = "arn:aws:kms:eu-central-1:123456789012:key/1"
  }

  assert {
    condition = jsonencode({ for each in output.statements : each.Sid => each.Action }) == jsonencode({
      ReadLake       = ["s3:GetObject"]
      ListLake       = ["s3:ListBucket"]
      WriteLake      = ["s3:PutObject", "s3:AbortMultipartUpload"]
      DeleteFromLake = ["s3:DeleteObject"]
      ReadAllowed    = ["s3:GetObject"]
      ListOpenData   = ["s3:ListBucket"]
      UseKey         = ["kms:Decrypt", "kms:GenerateDataKey"]
    })
    error_message = "A writer adds, deletes, and uses the key."
  }

  assert {
    condition = jsonencode(one([for each in output.statements : each.Resource if each.Sid == "ReadAllowed"])) == jsonencode([
      "arn:aws:s3:::open-data/taxi/*", "arn:aws:s3:::open-data/weather/*",
    ])
    error_message = "What is allowed beside the lake is read under its prefix only."
  }
}

run "a_wildcard_is_refused" {
  command = plan

  module {
    source = "./modules/access"
  }

  variables {
    bucket = "ice"
    level  = "read"
    allow  = ["s3://*"]
  }

  expect_failures = [var.allow]
}
