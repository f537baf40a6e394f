"""What a backup saves: every table of the migrations is in it, one way or the other."""

from app.cassandra.backup_tables import FROM_TOPICS, ONLY_HERE
from app.cassandra.migration_files import load_migrations
from app.cassandra.schema_shape import shape_of
from app.settings import Settings


def test_no_table_is_forgotten() -> None:
    settings = Settings.model_construct()
    statements = [one for each in load_migrations() for one in each.statements(settings)]
    assert set(shape_of(statements).tables) == {*ONLY_HERE, *FROM_TOPICS}
