"""Terraform's own checks of our modules, and a real apply and destroy against a local AWS."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import boto3
import pytest
from botocore.exceptions import ClientError

from tests.support.moto import start_moto
from tests.support.terraform import SOURCE, Terraform, copied, program

pytestmark = [pytest.mark.e2e, pytest.mark.slow, pytest.mark.timeout(1200)]

_ENVIRONMENTS = sorted(path.name for path in (SOURCE / "envs").iterdir() if path.is_dir())


@pytest.fixture(scope="module")
def terraform(tmp_path_factory: pytest.TempPathFactory) -> Terraform:
    return copied(tmp_path_factory.mktemp("terraform"))


def test_every_file_is_formatted(tmp_path: Path) -> None:
    Terraform(program(), SOURCE).run(".", "fmt", "-check", "-recursive", "-diff", "-no-color")


@pytest.mark.parametrize("name", _ENVIRONMENTS)
def test_an_environment_is_valid(terraform: Terraform, name: str) -> None:
    terraform.init(f"envs/{name}")
    found = json.loads(terraform.run(f"envs/{name}", "validate", "-json"))
    assert (found["valid"], found["diagnostics"]) == (True, [])


def test_every_module_does_what_its_tests_say(terraform: Terraform) -> None:
    terraform.init(".")
    said = terraform.run(".", "test", "-no-color")
    assert " 0 failed." in said


def test_a_stack_is_made_as_it_should_be_and_leaves_nothing_behind(terraform: Terraform) -> None:
    folder = "envs/localstack"
    terraform.init(folder)
    with start_moto() as endpoint:
        options = ("-no-color", "-input=false", "-auto-approve", f"-var=endpoint={endpoint}")
        with _destroyed(terraform, folder, options):
            terraform.run(folder, "apply", *options)
            made = json.loads(terraform.run(folder, "output", "-json"))
            assert made["lake"]["value"] == "s3://firnline-lake/lake"
            assert made["query_url"]["value"].startswith("https://")
            _check_bucket(_client(endpoint, "s3"))
            _check_functions(_client(endpoint, "lambda"))
            _check_roles(_client(endpoint, "iam"))
            _check_schedule(_client(endpoint, "events"))
            _check_alarms(_client(endpoint, "cloudwatch"))
            groups = _client(endpoint, "logs").describe_log_groups()["logGroups"]
            assert {each["logGroupName"]: each["retentionInDays"] for each in groups} == {
                f"/aws/lambda/firnline-{each}": 30 for each in ("query", "worker", "compactor")
            }
        assert _client(endpoint, "lambda").list_functions()["Functions"] == []
        assert _client(endpoint, "iam").list_roles()["Roles"] == []
        with pytest.raises(ClientError, match="404"):
            _client(endpoint, "s3").head_bucket(Bucket="firnline-lake")


@contextmanager
def _destroyed(terraform: Terraform, folder: str, options: tuple[str, ...]) -> Iterator[None]:
    yield
    terraform.run(folder, "destroy", *options)


def _client(endpoint: str, service: str) -> Any:
    return boto3.client(
        service, endpoint_url=endpoint, region_name="us-east-1", aws_access_key_id="test", aws_secret_access_key="test"
    )


def _check_bucket(s3: Any) -> None:
    bucket = "firnline-lake"
    assert all(s3.get_public_access_block(Bucket=bucket)["PublicAccessBlockConfiguration"].values())
    encryption = s3.get_bucket_encryption(Bucket=bucket)["ServerSideEncryptionConfiguration"]["Rules"]
    assert encryption[0]["ApplyServerSideEncryptionByDefault"]["SSEAlgorithm"] == "AES256"
    rules = {each["ID"]: each for each in s3.get_bucket_lifecycle_configuration(Bucket=bucket)["Rules"]}
    assert {name: rule.get("Expiration", {}).get("Days") for name, rule in rules.items()} == {
        "abort-uploads": None,
        "expire-results": 1,
    }
    assert rules["expire-results"]["Filter"] == {"Prefix": "lake/_firnline/results/"}
    (statement,) = json.loads(s3.get_bucket_policy(Bucket=bucket)["Policy"])["Statement"]
    assert (statement["Effect"], statement["Condition"]) == ("Deny", {"Bool": {"aws:SecureTransport": "false"}})


def _check_functions(functions: Any) -> None:
    found = {each["FunctionName"]: each for each in functions.list_functions()["Functions"]}
    assert set(found) == {"firnline-query", "firnline-worker", "firnline-compactor"}
    for name, (handler, seconds, at_once) in {
        "firnline-query": ("service.aws.endpoint", 60, None),
        "firnline-worker": ("functions.aws.worker", 900, 4),
        "firnline-compactor": ("service.aws.compactor", 900, 1),
    }.items():
        assert found[name]["PackageType"] == "Image"
        assert found[name]["ImageConfigResponse"]["ImageConfig"]["Command"] == [handler]
        assert found[name]["Timeout"] == seconds
        assert found[name]["Environment"]["Variables"]["FIRN_LAKE"] == "s3://firnline-lake/lake"
        reserved = functions.get_function_concurrency(FunctionName=name).get("ReservedConcurrentExecutions")
        assert reserved == at_once
    assert found["firnline-query"]["Environment"]["Variables"]["FIRN_FUNCTIONS"] == "lambda:firnline-worker"
    assert functions.get_function_url_config(FunctionName="firnline-query")["AuthType"] == "NONE"


def _check_roles(iam: Any) -> None:
    actions: dict[str, set[str]] = {}
    for role in iam.list_roles()["Roles"]:
        document = iam.get_role_policy(RoleName=role["RoleName"], PolicyName="own")["PolicyDocument"]
        actions[role["RoleName"]] = {action for each in document["Statement"] for action in each["Action"]}
    logs, reads = {"logs:CreateLogStream", "logs:PutLogEvents"}, {"s3:GetObject", "s3:ListBucket"}
    writes = {"s3:PutObject", "s3:AbortMultipartUpload"}
    invokes = {"lambda:InvokeFunction", "lambda:GetFunctionConcurrency", "lambda:GetFunctionConfiguration"}
    assert actions == {
        "firnline-query": logs | reads | writes | invokes | {"s3:DeleteObject"},
        "firnline-worker": logs | reads | writes,
        "firnline-compactor": logs | reads | writes | {"s3:DeleteObject"},
    }


def _check_schedule(events: Any) -> None:
    (rule,) = events.list_rules()["Rules"]
    (target,) = events.list_targets_by_rule(Rule=rule["Name"])["Targets"]
    assert (rule["ScheduleExpression"], rule["State"]) == ("rate(5 minutes)", "ENABLED")
    assert target["Arn"].endswith(":function:firnline-compactor")


def _check_alarms(cloudwatch: Any) -> None:
    alarms = {each["AlarmName"]: each for each in cloudwatch.describe_alarms()["MetricAlarms"]}
    each_has = {f"firnline-{role}-{what}" for role in ("query", "worker", "compactor")
                for what in ("errors", "throttles", "duration-p99")}  # fmt: skip
    assert set(alarms) == each_has - {"firnline-compactor-throttles"} | {
        "firnline-query-url-5xx",
        "firnline-compactor-log-lag",
    }
    assert all(each["AlarmActions"] for each in alarms.values())
