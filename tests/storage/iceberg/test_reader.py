"""Resolving a table: where its metadata is, which snapshot is asked for, what is asked of the store."""

import gzip
import json
from pathlib import Path

import pyarrow as pa
import pytest

from storage.errors import CorruptError, FirnlineError, NotFoundError, UnsupportedError
from storage.stores import AccessPolicy
from storage.tables.iceberg import IcebergSnapshot, load
from storage.tables.snapshot import At
from tests.support.iceberg_build import File, IcebergBuilder, Manifest, column, document_of, rewrite
from tests.support.iceberg_read import local_stores, read_table

pytestmark = pytest.mark.anyio

COLUMNS = [column(1, "id", "long")]
LATEST = At()


@pytest.fixture
def build(tmp_path: Path) -> IcebergBuilder:
    return IcebergBuilder(tmp_path / "t", COLUMNS)


def data(build: IcebergBuilder, *ids: int) -> File:
    return build.parquet(f"{ids[0]}.parquet", pa.table({"id": pa.array(ids, pa.int64())}), [1])


def versions(build: IcebergBuilder, limit: int) -> None:
    """Versions 1 to ``limit``, the last n with one file of row n."""
    for number in range(1, limit + 1):
        build.commit(Manifest([data(build, number)]), number=number)


async def version_at(build: IcebergBuilder) -> int:
    return (await load(local_stores(), build.location, LATEST, None)).version


class TestWhichMetadataFile:
    async def test_a_folder_means_its_highest_version(self, build: IcebergBuilder) -> None:
        versions(build, 11)
        assert await version_at(build) == 11

    @pytest.mark.parametrize("hint", ["1", "v1", "v1.metadata.json", "9", "nonsense", ""])
    async def test_a_stale_or_odd_hint_does_not_hide_the_newest(self, build: IcebergBuilder, hint: str) -> None:
        versions(build, 12)
        for number in range(2, 10):
            (build.folder / f"metadata/v{number}.metadata.json").unlink()
        (build.folder / "metadata/version-hint.text").write_text(hint)
        assert await version_at(build) == 12

    async def test_a_hint_to_a_lost_newer_file_is_an_alarm(self, build: IcebergBuilder) -> None:
        versions(build, 2)
        (build.folder / "metadata/version-hint.text").write_text("3\n")
        with pytest.raises(CorruptError, match=r"v3\.metadata\.json"):
            await version_at(build)

    async def test_catalog_names_and_hadoop_names_are_compared_by_number(self, build: IcebergBuilder) -> None:
        versions(build, 3)
        metadata = build.folder / "metadata"
        (metadata / "v2.metadata.json").rename(metadata / "00007-0f0e.metadata.json")
        assert await version_at(build) == 2

    async def test_of_equal_numbers_the_last_updated_wins_unless_the_hint_names_one(
        self, build: IcebergBuilder
    ) -> None:
        versions(build, 3)
        metadata = build.folder / "metadata"
        for number, name in ((1, "00005-b"), (2, "00005-c"), (3, "00005-a")):
            (metadata / f"v{number}.metadata.json").rename(metadata / f"{name}.metadata.json")
        assert await version_at(build) == 3
        (metadata / "version-hint.text").write_text("00005-c")
        assert await version_at(build) == 2

    @pytest.mark.parametrize("name", ["v4.gz.metadata.json", "v4.metadata.json.gz", "00004-x.gz.metadata.json"])
    async def test_compressed_metadata_is_read(self, build: IcebergBuilder, name: str) -> None:
        versions(build, 2)
        metadata = build.folder / "metadata"
        (metadata / name).write_bytes(gzip.compress((metadata / "v1.metadata.json").read_bytes()))
        assert await version_at(build) == 1
        assert (await load(local_stores(), f"{build.location}/metadata/{name}", LATEST, None)).version == 1

    async def test_a_folder_without_metadata_is_no_table(self, build: IcebergBuilder) -> None:
        with pytest.raises(NotFoundError, match="no iceberg table here"):
            await version_at(build)

    async def test_a_metadata_file_that_is_not_there_is_not_found_by_name(self, build: IcebergBuilder) -> None:
        with pytest.raises(NotFoundError, match=r"v9\.metadata\.json"):
            await load(local_stores(), f"{build.location}/metadata/v9.metadata.json", LATEST, None)

    @pytest.mark.parametrize("name", ["snap-1.avro", "m1-0.avro"])
    async def test_metadata_that_points_to_nothing_is_corrupt_by_name(self, build: IcebergBuilder, name: str) -> None:
        location = build.commit(Manifest([data(build, 1)]))
        (build.folder / "metadata" / name).unlink()
        with pytest.raises(CorruptError, match=name):
            await load(local_stores(), location, LATEST, None)

    async def test_the_access_policy_covers_what_metadata_names(self, build: IcebergBuilder, tmp_path: Path) -> None:
        location = build.commit(Manifest([data(build, 1)]))
        document = document_of(location)
        document["snapshots"][0]["manifest-list"] = "file:///etc/passwd"
        rewrite(location, document)
        stores = local_stores().scoped(AccessPolicy((f"file://{tmp_path}",)))
        with pytest.raises(FirnlineError, match="outside the lake"):
            await load(stores, location, LATEST, None)


class TestWhatIsAsked:
    async def test_a_known_metadata_file_costs_no_request(self, build: IcebergBuilder) -> None:
        location = build.commit(Manifest([data(build, 1)]))
        stores = local_stores()
        known = await load(stores, location, LATEST, None)
        assert stores.count.requests == 3  # metadata, manifest list, manifest
        assert await load(stores, location, LATEST, known) is known
        assert stores.count.requests == 3

    async def test_an_unchanged_folder_costs_one_listing(self, build: IcebergBuilder) -> None:
        versions(build, 2)
        (build.folder / "metadata/version-hint.text").write_text("2")
        stores = local_stores()
        known = await load(stores, build.location, LATEST, None)
        before = stores.count.requests
        assert await load(stores, build.location, LATEST, known) is known
        assert stores.count.requests == before + 1

    @pytest.mark.parametrize("name", ["v3.metadata.json", "00003-x.gz.metadata.json"])
    async def test_a_large_folder_is_not_listed_again_until_it_changes(self, build: IcebergBuilder, name: str) -> None:
        versions(build, 2)
        for number in range(1001):
            (build.folder / f"metadata/{number}.avro").touch()
        stores = local_stores()
        known = await load(stores, build.location, LATEST, None)
        before = stores.count.requests
        assert await load(stores, build.location, LATEST, known) is known
        assert stores.count.requests == before + 3
        versions(build, 3)
        (build.folder / "metadata/v3.metadata.json").rename(build.folder / "metadata" / name)
        newer = await load(stores, build.location, LATEST, known)
        assert newer.version == 3
        (build.folder / "metadata" / name).unlink()
        assert (await load(stores, build.location, LATEST, newer)).version == 2

    async def test_a_new_version_costs_only_what_is_new(self, build: IcebergBuilder) -> None:
        first = Manifest([data(build, 1)])
        build.commit(first, number=1)
        stores = local_stores()
        known = await load(stores, build.location, LATEST, None)
        build.commit(Manifest([data(build, 2)]), number=2)
        _append_manifest(build)
        before = stores.count.requests
        newer = await load(stores, build.location, LATEST, known)
        assert sorted((await read_table(local_stores(), newer)).column("id").to_pylist()) == [1, 2]
        assert stores.count.requests == before + 4  # listing, metadata, manifest list, the new manifest

    async def test_a_folder_made_anew_is_seen(self, build: IcebergBuilder) -> None:
        build.commit(Manifest([data(build, 1)]))
        known = await load(local_stores(), build.location, LATEST, None)
        build.commit(Manifest([data(build, 2), data(build, 3)]))
        newer = await load(local_stores(), build.location, LATEST, known)
        assert newer is not known
        assert newer.etag != known.etag


def _append_manifest(build: IcebergBuilder) -> None:
    """Make version 2's manifest list name version 1's manifest too."""
    import fastavro

    one, two = (build.folder / f"metadata/snap-{number}.avro" for number in (1, 2))
    with one.open("rb") as old, two.open("rb") as new:
        reader = fastavro.reader(new)
        rows, schema = [*reader, *fastavro.reader(old)], reader.writer_schema
    with two.open("wb") as out:
        fastavro.writer(out, schema, rows)  # type: ignore[arg-type]


class TestTravel:
    @pytest.fixture
    def table(self, build: IcebergBuilder) -> IcebergBuilder:
        """Snapshots 1 (id), 2 (id, x); main went 1 → 2 → 1 → 2; tag ``t`` and branch ``b`` on 1."""
        build.commit(Manifest([data(build, 1)]), number=1)
        build.schemas.append({"type": "struct", "schema-id": 1, "fields": [*COLUMNS, column(2, "x", "int")]})
        location = build.commit(Manifest([data(build, 2)]), number=2)
        first = json.loads((build.folder / "metadata/v1.metadata.json").read_text())
        document = json.loads((build.folder / "metadata/v2.metadata.json").read_text())
        document["snapshots"].insert(0, first["snapshots"][0])
        moves = ((1000, 1), (2000, 2), (3000, 1), (4000, 2))
        document["snapshot-log"] = [{"timestamp-ms": at, "snapshot-id": number} for at, number in moves]
        document["refs"] = {
            "t": {"snapshot-id": 1, "type": "tag"},
            "b": {"snapshot-id": 1, "type": "branch"},
            "main": {"snapshot-id": 2, "type": "branch"},
        }
        rewrite(location, document)
        return build

    @pytest.mark.parametrize(
        ("at", "version", "columns"),
        [
            (At(), 2, ["id", "x"]),
            (At(version=1), 1, ["id"]),
            (At(timestamp_ms=1999), 1, ["id"]),
            (At(timestamp_ms=2000), 2, ["id", "x"]),
            (At(timestamp_ms=3500), 1, ["id"]),
            (At(timestamp_ms=9_000_000), 2, ["id", "x"]),
            (At(ref="t"), 1, ["id"]),
            (At(ref="b"), 1, ["id", "x"]),
            (At(ref="main"), 2, ["id", "x"]),
        ],
    )
    async def test_it_finds_the_snapshot_and_its_schema(
        self, table: IcebergBuilder, at: At, version: int, columns: list[str]
    ) -> None:
        latest = await load(local_stores(), table.location, LATEST, None)
        for known in (None, latest):
            snapshot = await load(local_stores(), table.location, at, known)
            assert (snapshot.version, snapshot.schema.names) == (version, columns)
            assert (await read_table(local_stores(), snapshot)).column("id").to_pylist() == [version]

    @pytest.mark.parametrize("at", [At(version=3), At(timestamp_ms=999), At(ref="nobody")])
    async def test_what_is_not_there_is_not_found(self, table: IcebergBuilder, at: At) -> None:
        with pytest.raises(NotFoundError):
            await load(local_stores(), table.location, at, None)

    async def test_without_a_log_the_ancestry_tells_the_time(self, table: IcebergBuilder) -> None:
        path = table.folder / "metadata/v2.metadata.json"
        document = json.loads(path.read_text())
        document["snapshot-log"] = []
        document["snapshots"][1]["parent-snapshot-id"] = 1
        path.write_text(json.dumps(document))
        assert (await load(local_stores(), table.location, At(timestamp_ms=1500), None)).version == 1


class TestOddMetadata:
    async def test_a_table_without_a_snapshot_is_empty(self, build: IcebergBuilder) -> None:
        location = build.commit(current=False, snapshots=[])
        for at in (LATEST, At(ref="main")):
            snapshot = await load(local_stores(), location, at, None)
            assert (snapshot.version, len(snapshot.files), snapshot.schema.names) == (0, 0, ["id"])

    async def test_version_1_forms_are_read(self, build: IcebergBuilder) -> None:
        location = build.commit(Manifest([data(build, 1)], sequence=0))
        document = document_of(location) | {"format-version": 1}
        document["schema"] = {"type": "struct", "fields": document.pop("schemas")[0]["fields"]}
        document["partition-spec"] = []
        for key in ("partition-specs", "default-spec-id", "current-schema-id", "properties", "table-uuid"):
            document.pop(key)
        snapshot = document["snapshots"][0]
        snapshot["manifests"] = [f"{build.location}/metadata/m1-0.avro"]
        for key in ("manifest-list", "schema-id", "sequence-number"):
            snapshot.pop(key)
        rewrite(location, document)
        rows = await read_table(local_stores(), await load(local_stores(), location, LATEST, None))
        assert rows.column("id").to_pylist() == [1]

    async def test_relative_paths_are_taken_from_the_table(self, build: IcebergBuilder) -> None:
        file = data(build, 1)
        file.path = "data/1.parquet"
        location = build.commit(Manifest([file]))
        document = document_of(location)
        document["snapshots"][0]["manifest-list"] = "metadata/snap-1.avro"
        rewrite(location, document)
        snapshot = await load(local_stores(), location, LATEST, None)
        assert snapshot.files.paths == [f"{build.location}/data/1.parquet"]

    async def test_a_newer_format_version_is_refused_by_name(self, build: IcebergBuilder) -> None:
        location = build.commit(**{"format-version": 4})
        with pytest.raises(UnsupportedError, match="version=4"):
            await load(local_stores(), location, LATEST, None)

    @pytest.mark.parametrize("type_", ["variant", "geometry(OGC:CRS84)", "geography", "int128"])
    async def test_an_unreadable_type_is_refused_by_name_where_it_exists(
        self, build: IcebergBuilder, type_: str
    ) -> None:
        build.schemas[0]["fields"] = [*COLUMNS, column(2, "odd", type_)]
        build.schemas.append({"type": "struct", "schema-id": 1, "fields": COLUMNS})
        location = build.commit(Manifest([data(build, 1)]))
        assert (await load(local_stores(), location, LATEST, None)).schema.names == ["id"]
        refused = build.commit(Manifest([data(build, 1)]), number=2, **{"current-schema-id": 0})
        with pytest.raises(UnsupportedError, match="column=odd"):
            await load(local_stores(), refused, LATEST, None)

    async def test_encrypted_tables_are_refused(self, build: IcebergBuilder) -> None:
        build.properties["encryption.key-id"] = "k"
        with pytest.raises(UnsupportedError, match="encrypted"):
            await load(local_stores(), build.commit(Manifest([data(build, 1)])), LATEST, None)

    async def test_key_metadata_of_a_table_that_is_not_encrypted_is_ignored(self, build: IcebergBuilder) -> None:
        file = data(build, 1)
        file.key_metadata = b"k"
        snapshot = await load(local_stores(), build.commit(Manifest([file])), LATEST, None)
        assert (await read_table(local_stores(), snapshot)).num_rows == 1

    async def test_an_unknown_file_format_is_refused(self, build: IcebergBuilder) -> None:
        file = data(build, 1)
        file.format = "LANCE"
        with pytest.raises(UnsupportedError, match="lance"):
            await load(local_stores(), build.commit(Manifest([file])), LATEST, None)

    @pytest.mark.parametrize("text", ["", "{", "[]", "[" * 100_000, '{"format-version": 2}', '{"format-version": "x"}'])
    async def test_metadata_that_is_not_metadata_is_corrupt(self, build: IcebergBuilder, text: str) -> None:
        path = build.folder / "metadata/v1.metadata.json"
        path.write_text(text)
        with pytest.raises(CorruptError, match=r"v1\.metadata\.json"):
            await load(local_stores(), f"file://{path}", LATEST, None)

    async def test_a_truncated_gzip_is_corrupt(self, build: IcebergBuilder) -> None:
        path = build.folder / "metadata/v1.gz.metadata.json"
        path.write_bytes(gzip.compress(b'{"format-version": 2}' * 100)[:-12])
        with pytest.raises(CorruptError, match="truncated"):
            await load(local_stores(), f"file://{path}", LATEST, None)


class TestPartitionValues:
    """Files that Hive wrote lack the columns that they are partitioned by."""

    SPEC = (
        {"name": "p", "transform": "identity", "source-id": 2, "field-id": 1000},
        {"name": "p", "transform": "void", "source-id": 2, "field-id": 1000},
    )

    def table(self, build: IcebergBuilder) -> tuple[Manifest, Manifest]:
        build.schemas[0]["fields"] = [*COLUMNS, column(2, "p", "date")]
        build.specs = [{"spec-id": number, "fields": [self.SPEC[number]]} for number in (0, 1)]
        types = {("p", 1000): {"type": "int", "logicalType": "date"}}
        files = [data(build, 1), data(build, 2)]
        files[0].partition, files[1].partition = {"p": 19000}, {"p": None}
        table = pa.table({"id": pa.array([3], pa.int64()), "p": pa.array([1], pa.int32()).cast(pa.date32())})
        later = build.parquet("later.parquet", table, [1, 2])
        return Manifest(files, partition=types), Manifest([later], partition=types, spec_id=1)

    async def test_they_get_their_partition_values(self, build: IcebergBuilder) -> None:
        old, _new = self.table(build)
        snapshot = await load(local_stores(), build.commit(old), LATEST, None)
        assert snapshot.partition_columns == ("p",)
        assert snapshot.files.partitions["p"].cast(pa.int32()).to_pylist() == [19000, None]
        assert not snapshot.files.absent

    async def test_they_keep_them_when_the_partitioning_changes(self, build: IcebergBuilder) -> None:
        snapshot = await load(local_stores(), build.commit(*self.table(build)), LATEST, None)
        assert not snapshot.files.partitions
        values, known = snapshot.files.absent["p"]
        assert known.tolist() == [True, True, False]
        rows = await read_table(local_stores(), snapshot)
        assert rows.column("p").cast(pa.int32()).to_pylist() == [19000, None, 1]
        assert values.type == pa.date32()

    async def test_they_have_statistics(self, build: IcebergBuilder) -> None:
        snapshot = await load(local_stores(), build.commit(*self.table(build)), LATEST, None)
        stats = snapshot.files.stats("p")
        assert stats is not None
        assert stats is snapshot.files.stats("p")
        assert stats.minimum.cast(pa.int32()).to_pylist() == [19000, None, None]
        assert stats.null_count.to_pylist() == [0, 1, None]
        assert snapshot.files.stats("nobody") is None

    async def test_an_empty_table_knows_its_partition_columns(self, build: IcebergBuilder) -> None:
        self.table(build)
        build.specs.pop()
        snapshot = await load(local_stores(), build.commit(), LATEST, None)
        assert snapshot.partition_columns == ("p",)


async def test_a_name_mapping_becomes_dotted_names(build: IcebergBuilder) -> None:
    inner = [{"field-id": 4, "names": ["x", "X"]}]
    mapping = [{"field-id": 1, "names": ["id", "key"]}, {"field-id": 3, "names": ["s"], "fields": inner}, {"names": []}]
    build.properties["schema.name-mapping.default"] = json.dumps(mapping)
    snapshot = await load(local_stores(), build.commit(Manifest([data(build, 1)])), LATEST, None)
    assert snapshot.name_mapping == {"id": 1, "key": 1, "s": 3, "s.x": 4, "s.X": 4}


async def test_a_snapshot_travels_between_processes(build: IcebergBuilder) -> None:
    import pickle

    rows = Manifest([data(build, 1, 2)])
    deletes = Manifest([build.position_deletes("d", [(rows.files[0].path, 0)])], content=1)
    snapshot = await load(local_stores(), build.commit(rows, deletes), LATEST, None)
    again = pickle.loads(pickle.dumps(snapshot))
    assert isinstance(again, IcebergSnapshot)
    assert (await read_table(local_stores(), again)).column("id").to_pylist() == [2]
