"""Swap of a `replace`: load a shadow table, then put it in the target's place in one transaction.

It renames the shadow if nothing depends on the target and all its properties can be copied; otherwise it uses
``DELETE`` and ``INSERT … SELECT``, which keeps the table itself. A table referenced by a foreign key that is not
deferrable cannot be emptied and refilled, and is refused.
"""

from __future__ import annotations

from typing import Any, Final

from psycopg import sql

from dataflows.connectors.contract import Method
from dataflows.connectors.isolation import RowRefused
from dataflows.connectors.postgres.interference import Definition, check_merged
from dataflows.connectors.postgres.session import Session, ask, one_message, one_row, translated
from dataflows.connectors.postgres.shadow_rules import drop_shadow
from dataflows.connectors.postgres.tables import TableName
from dataflows.connectors.sql.names import quoted
from dataflows.connectors.state import RunRow
from penstock.errors import BadData, Refused

__all__ = ["check_emptied", "drop_leftovers", "make_shadow", "mark_key", "move_in", "replace_method"]


_OBSTACLES: Final = """
WITH t AS (SELECT c.*, c.oid AS id FROM pg_class c WHERE c.oid = %(table)s::regclass)
SELECT 'it is not an ordinary table' FROM t WHERE relkind <> 'r' OR relispartition OR relpersistence <> 'p'
   OR relam <> (SELECT oid FROM pg_am WHERE amname = 'heap') OR relreplident <> 'd' OR reltoastrelid IN
      (SELECT oid FROM pg_class WHERE reloptions IS NOT NULL)
UNION ALL SELECT DISTINCT pg_describe_object(d.classid, d.objid, 0) || ' depends on it' FROM t CROSS JOIN LATERAL (
   VALUES ('pg_class'::regclass, t.id), ('pg_type', t.reltype), ('pg_type', (SELECT typarray FROM pg_type
   WHERE oid = t.reltype))) r (class, id) JOIN pg_depend d ON (d.refclassid, d.refobjid) = (r.class, r.id)
   LEFT JOIN pg_class k ON d.classid = 'pg_class'::regclass AND k.oid = d.objid
   WHERE (d.classid <> 'pg_type'::regclass OR d.deptype <> 'i') AND (k.relkind IS NULL OR k.relkind NOT IN ('i', 't'))
   AND NOT (d.classid = 'pg_attrdef'::regclass AND EXISTS (SELECT FROM pg_attrdef a
   WHERE a.oid = d.objid AND a.adrelid = t.id)) AND NOT (d.classid = 'pg_constraint'::regclass AND EXISTS (
   SELECT FROM pg_constraint k WHERE k.oid = d.objid AND t.id IN (k.conrelid, k.confrelid)))
UNION ALL SELECT 'it belongs to an extension, or depends on one' FROM t WHERE EXISTS (SELECT FROM pg_depend d
   WHERE d.classid = 'pg_class'::regclass AND d.objid = t.id AND d.deptype IN ('e', 'x'))
UNION ALL SELECT 'it is a table of a type' FROM t WHERE reloftype <> 0
UNION ALL SELECT 'a subscription' FROM t WHERE EXISTS (SELECT FROM pg_subscription_rel u WHERE u.srrelid = t.id)
UNION ALL SELECT 'security labels' FROM t WHERE EXISTS (SELECT FROM pg_seclabel l
   WHERE l.classoid = 'pg_class'::regclass AND l.objoid = t.id)
UNION ALL SELECT 'foreign keys' FROM t WHERE EXISTS (SELECT FROM pg_constraint k WHERE k.contype = 'f'
   AND t.id IN (k.conrelid, k.confrelid))
UNION ALL SELECT 'row security' FROM t WHERE relrowsecurity
UNION ALL SELECT 'a clustered index' FROM t WHERE EXISTS (SELECT FROM pg_index i WHERE i.indrelid = t.id
   AND i.indisclustered)
UNION ALL SELECT 'a constraint that is not validated' FROM t WHERE EXISTS (SELECT FROM pg_constraint k
   WHERE k.conrelid = t.id AND NOT k.convalidated)
UNION ALL SELECT 'inheritance' FROM t WHERE EXISTS (SELECT FROM pg_inherits i WHERE t.id IN (i.inhrelid, i.inhparent))
UNION ALL SELECT 'grants on columns, or statistics targets' FROM t WHERE EXISTS (SELECT FROM pg_attribute a
   WHERE a.attrelid = t.id AND a.attnum > 0
   AND (a.attacl IS NOT NULL OR a.attoptions IS NOT NULL OR a.attstattarget > 0))
UNION ALL SELECT 'it belongs to another user' FROM t WHERE NOT pg_has_role(t.relowner, 'USAGE')
UNION ALL SELECT 'this user cannot create in its schema' FROM t
   WHERE NOT has_schema_privilege(t.relnamespace, 'CREATE')"""
_PUBLISHED: Final = """
WITH t AS (SELECT c.*, c.oid AS id FROM pg_class c WHERE c.oid = %(table)s::regclass)
SELECT 'a publication' FROM t WHERE EXISTS (SELECT FROM pg_publication_tables p
   WHERE (p.schemaname, p.tablename) = (t.relnamespace::regnamespace::text, t.relname))
   OR EXISTS (SELECT FROM pg_publication_rel p WHERE p.prrelid = t.id)"""
"""Run only if there are publications: planning it takes as long as all the others."""
_KEEPERS: Final = """
SELECT (SELECT ARRAY[k.conname::text, k.conrelid::regclass::text] FROM pg_constraint k WHERE k.contype = 'f'
  AND k.confrelid = %(table)s::regclass AND (NOT k.condeferrable OR k.confdeltype <> 'a') LIMIT 1), (
SELECT ARRAY[format('row security hides rows of %%s from this user', c.oid::regclass),
  'write as the owner of the table, or as a role with BYPASSRLS']
FROM pg_class c WHERE c.oid = %(table)s::regclass AND row_security_active(c.oid)
UNION ALL SELECT ARRAY[format('partition %%s is a foreign table that takes no INSERT or DELETE', c.oid::regclass),
  'detach it, or write to another table']
FROM pg_partition_tree(%(table)s::regclass) p JOIN pg_class c ON c.oid = p.relid
WHERE c.relkind = 'f' AND pg_relation_is_updatable(c.oid, false) & 24 <> 24 LIMIT 1),
EXISTS (SELECT FROM pg_publication)"""
"""A foreign key that emptying the table would break, and what would keep rows in it or make emptying it fail; and
whether there are publications."""
_UNDELETABLE: Final = """
SELECT p.pubname FROM pg_publication_tables p JOIN pg_publication USING (pubname), pg_class c
WHERE c.oid = %(table)s::regclass AND pubdelete AND c.relkind = 'r'
AND (p.schemaname, p.tablename) = (c.relnamespace::regnamespace::text, c.relname) AND (c.relreplident = 'n'
OR (c.relreplident = 'd' AND NOT EXISTS (SELECT FROM pg_index i WHERE i.indrelid = c.oid AND i.indisprimary)))
LIMIT 1"""


def check_emptied(session: Session, sink: TableName, what: str, where: str) -> bool:
    """Refuse to replace all rows if some would stay, or others would go; return True if there are publications.

    Raises:
        Refused: `what` would break a foreign key of another table, or delete rows there; or rows cannot be deleted.
    """
    with translated(where):
        return _check_kept(one_row(session, _KEEPERS, {"table": sink.sql}, same=True), what, where)


def _check_kept(found: tuple[Any, ...], what: str, where: str) -> bool:
    referrer, closed, published = found
    if referrer:
        hint = "make the key DEFERRABLE with NO ACTION, or write to a table that nothing refers to"
        raise Refused(f"{what} would break foreign key {referrer[0]} of {referrer[1]}", where=where, hint=hint)
    if closed:
        raise Refused(f"{what}: {closed[0]}", where=where, hint=closed[1])
    return bool(published)


def replace_method(session: Session, sink: TableName, where: str) -> Method:
    """Return the method of a `replace` of this table.

    Raises:
        Refused: a foreign key of another table would break, or delete rows there; or the server does not allow its
            rows to be deleted.
    """
    with translated(where):
        found = one_row(session, f"SELECT k.*, ARRAY({_OBSTACLES}) FROM ({_KEEPERS}) k", {"table": sink.sql}, same=True)
    published, obstacles = _check_kept(found[:3], "`replace`", where), found[3]
    with translated(where):
        publication = ask(session, _UNDELETABLE, {"table": sink.sql}).fetchone() if published else None
        obstacles += [row[0] for row in ask(session, _PUBLISHED, {"table": sink.sql})] if published else []
    if publication:
        what = f"publication {publication[0]} publishes deletes, and {sink} has no replica identity"
        raise Refused(what, where=where, hint="give the table a primary key, or REPLICA IDENTITY FULL")
    return Method("refill", tuple(obstacles)) if obstacles else Method("rename")


def drop_leftovers(session: Session, prefix: str, sink: TableName, keep: TableName | None, where: str) -> int:
    """Drop the tables in the sink's schema whose names begin with `prefix`, except `keep`; return their number."""
    query = (
        "SELECT c.relname FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace "
        "WHERE n.nspname = %s AND c.relkind = 'r' AND starts_with(c.relname, %s) AND c.relname <> %s"
    )
    with translated(where):
        names = ask(session, query, (sink.schema, prefix, keep.name if keep else "")).fetchall()
        for (name,) in names:
            drop_shadow(session, TableName(sink.schema, name), where)
    return len(names)


_CARRIED: Final = """
SELECT c.reloptions, obj_description(c.oid, 'pg_class'), pg_get_userbyid(c.relowner), c.relacl IS NOT NULL,
  (SELECT coalesce(json_agg(json_build_array(a.privilege_type,
     CASE a.grantee WHEN 0 THEN NULL ELSE pg_get_userbyid(a.grantee) END,
     a.is_grantable)), '[]') FROM aclexplode(coalesce(c.relacl, acldefault('r', c.relowner))) a)
FROM pg_class c WHERE c.oid IN (%(sink)s::regclass, %(shadow)s::regclass) ORDER BY c.oid <> %(sink)s::regclass"""
_MADE: Final = """
SELECT to_regclass(%(shadow)s) IS NOT NULL, (SELECT s.spcname FROM pg_class c JOIN pg_tablespace s
  ON s.oid = c.reltablespace WHERE c.oid = %(table)s::regclass),
  (SELECT count(*) FROM pg_index x WHERE x.indrelid = %(table)s::regclass),
  EXISTS (SELECT FROM pg_constraint k WHERE k.contype = 'p' AND k.conrelid = %(table)s::regclass
    AND obj_description(k.oid, 'pg_constraint') = %(comment)s)"""


def make_shadow(session: Session, sink: TableName, shadow: TableName, where: str) -> bool:
    """Create the run's shadow table with all that ``LIKE`` copies from the target; return False if it is there."""
    with translated(where):
        values = {"shadow": shadow.sql, "table": sink.sql, "comment": LATE}
        made, space, indexes, late = one_row(session, _MADE, values, same=True)
        if made:
            return False
        at = f" TABLESPACE {quoted(space)}" if space else ""
        less = " EXCLUDING INDEXES" if late and indexes == 1 else ""
        session.execute(f"CREATE TABLE IF NOT EXISTS {shadow.sql} (LIKE {sink.sql} INCLUDING ALL{less}){at}")
        if late and not less and (name := _key_name(session, shadow)) is not None:
            _change(session, f"ALTER TABLE {shadow.sql} DROP CONSTRAINT {quoted(name)}", where)
    return True


LATE: Final = "the source's key: Penstock makes it after each load"
"""Comment that marks such a key. A key with another comment is checked row by row during the load."""
_LATE_KEY: Final = """
SELECT ARRAY(SELECT a.attname::text FROM unnest(k.conkey) WITH ORDINALITY u(n, i)
  JOIN pg_attribute a ON a.attrelid = k.conrelid AND a.attnum = u.n ORDER BY i)
FROM pg_constraint k WHERE k.contype = 'p' AND k.conrelid = %(table)s::regclass
AND obj_description(k.oid, 'pg_constraint') = %(comment)s"""


def _late_key(session: Session, table: TableName) -> list[str] | None:
    """Return the columns of a key that is made after the load; None if the table has none."""
    found = ask(session, _LATE_KEY, {"table": table.sql, "comment": LATE}).fetchone()
    return None if found is None else list(found[0])


def _key_name(session: Session, table: TableName) -> str | None:
    query = "SELECT conname FROM pg_constraint WHERE contype = 'p' AND conrelid = %s::regclass"
    found = ask(session, query, (table.sql,)).fetchone()
    return None if found is None else str(found[0])


def mark_key(session: Session, table: TableName) -> None:
    """Mark a table's primary key, by a comment, as one to create after each load."""
    if (name := _key_name(session, table)) is not None:
        session.execute(_marking(table, name))


def _marking(table: TableName, key: str) -> str:
    return f"COMMENT ON CONSTRAINT {quoted(key)} ON {table.sql} IS {sql.Literal(LATE).as_string(None)}"


def _make_key(session: Session, sink: TableName, shadow: TableName) -> None:
    """Create the target's primary key on the shadow, if it was loaded without one.

    Raises:
        BadData: two rows have the same key.
    """
    if (key := _late_key(session, sink)) is None:
        return
    names, made = ", ".join(quoted(name) for name in key), f"{shadow.name}_key"
    adding = f"ALTER TABLE {shadow.sql} ADD CONSTRAINT {quoted(made)} PRIMARY KEY ({names})"
    try:
        _change(session, f"{adding}; {_marking(shadow, made)}", str(sink))
    except RowRefused as error:
        what = f"the key ({', '.join(key)}) cannot be made: {error.what}"
        hint = "nothing was published; does a step, or a change of keys while they were read, repeat rows?"
        raise BadData(what, where=str(sink), hint=hint) from None


def move_in(
    session: Session, sink: TableName, shadow: TableName, columns: tuple[str, ...], method: Method, run: RunRow
) -> None:
    """Replace the target's rows, or those in the run's window, by the shadow's.

    It has to be called inside the transaction that holds the generation.
    """
    if method.name == "rename":
        _rename(session, sink, shadow)
    elif method.column is None:
        _refill(session, sink, shadow, columns, "true")
    else:
        name, kind = quoted(method.column.name), method.column.type
        lower, upper = (sql.Literal(bound).as_string(None) for bound in (run.lower, run.upper))
        window = f"{name} > {lower}::{kind} AND {name} <= {upper}::{kind}"
        _refill(session, sink, shadow, columns, window)


def _refill(session: Session, sink: TableName, shadow: TableName, columns: tuple[str, ...], which: str) -> None:
    names = ", ".join(quoted(name) for name in columns)
    partitioned = one_row(session, "SELECT relkind = 'p' FROM pg_class WHERE oid = %s::regclass", (sink.sql,))[0]
    session.execute("SET CONSTRAINTS ALL DEFERRED")
    session.execute(f"LOCK TABLE {sink.sql} IN SHARE ROW EXCLUSIVE MODE")
    only = "" if partitioned else "ONLY "  # rows of tables that inherit from it stay
    session.execute(f"DELETE FROM {only}{sink.sql} WHERE {which}")
    session.execute(f"INSERT INTO {sink.sql} ({names}) OVERRIDING SYSTEM VALUE SELECT {names} FROM {shadow.sql}")
    if named := Definition.of(session, sink, (), str(sink), copies=False).interferers:
        texts = ", ".join(f"{quoted(name)}::text" for name in columns) or "NULL"
        rows = f"SELECT {texts} FROM {shadow.sql} EXCEPT ALL SELECT {texts} FROM {only}{sink.sql} WHERE {which}"
        check_merged(session, f"SELECT count(*) FROM ({rows}) u", named, str(sink))
    drop_shadow(session, shadow, str(sink))


def _rename(session: Session, sink: TableName, shadow: TableName) -> None:
    _make_key(session, sink, shadow)
    session.execute(f"LOCK TABLE {sink.sql}, {shadow.sql} IN ACCESS EXCLUSIVE MODE")
    indexes, copies = _indexes(session, sink, shadow)
    if [one[1:] for one in indexes] != [one[1:] for one in copies]:
        raise Refused("the table's indexes were changed while the run loaded", where=str(sink), hint="run it again")
    statements = [
        *_carry_over(session, sink, shadow),
        f"DROP TABLE {sink.sql}",
        f"ALTER TABLE {shadow.sql} RENAME TO {quoted(sink.name)}",
        *(
            f"ALTER INDEX {quoted(sink.schema, new)} RENAME TO {quoted(old)}"
            for (old, *_), (new, *_) in zip(indexes, copies, strict=True)
        ),
    ]
    _change(session, "; ".join(statements), str(sink))


def _change(session: Session, statements: str, where: str) -> None:
    """Execute statements that change tables, without the driver: it drops its prepared statements at each of them."""
    one_message(session, statements, where)


_INDEXES: Final = """
SELECT i.relname, x.indkey::text, x.indisunique, x.indisprimary, pg_get_expr(x.indexprs, x.indrelid),
       pg_get_expr(x.indpred, x.indrelid), x.indoption::text, x.indclass::text, x.indcollation::text, x.indnkeyatts,
       to_jsonb(x) ->> 'indnullsnotdistinct', i.relam, i.reloptions, x.indrelid = %(sink)s::regclass
FROM pg_index x JOIN pg_class i ON i.oid = x.indexrelid
WHERE x.indrelid IN (%(sink)s::regclass, %(shadow)s::regclass) ORDER BY NOT x.indisprimary, x.indexrelid"""


def _indexes(session: Session, sink: TableName, shadow: TableName) -> tuple[list[Any], list[Any]]:
    """Return name and properties of the indexes of both tables."""
    found = ask(session, _INDEXES, {"sink": sink.sql, "shadow": shadow.sql}).fetchall()
    return [one[:-1] for one in found if one[-1]], [one[:-1] for one in found if not one[-1]]


def _carry_over(session: Session, sink: TableName, shadow: TableName) -> list[str]:
    """Return statements that copy what ``LIKE`` does not: options, comment, grants, owner."""
    of_sink, of_shadow = ask(session, _CARRIED, {"sink": sink.sql, "shadow": shadow.sql}).fetchall()
    options, comment, owner, granted, grants = of_sink
    found = [f"ALTER TABLE {shadow.sql} SET ({', '.join(options)})"] if options else []
    if comment is not None:
        found.append(f"COMMENT ON TABLE {shadow.sql} IS {sql.Literal(comment).as_string(None)}")
    found.append(f"ALTER TABLE {shadow.sql} OWNER TO {quoted(owner)}")
    *_, changed, given = of_shadow  # by default privileges
    if not granted and not changed:
        return found
    grantees = {_grantee(name) for _, name, _ in given} | {quoted(owner), "PUBLIC"}
    found.append(f"REVOKE ALL ON {shadow.sql} FROM {', '.join(sorted(grantees))} CASCADE")
    for privilege, grantee, grantable in grants:
        to = _grantee(grantee)
        found.append(f"GRANT {privilege} ON {shadow.sql} TO {to}{' WITH GRANT OPTION' if grantable else ''}")
    return found


def _grantee(name: str | None) -> str:
    return quoted(name) if name is not None else "PUBLIC"
