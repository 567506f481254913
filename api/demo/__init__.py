"""The demo: TPC-H data in a source database, a warehouse with other names and types, and the tour through both."""
