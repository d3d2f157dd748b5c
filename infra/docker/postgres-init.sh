#!/usr/bin/env bash
# Runs once, when the server's directory is empty: two databases, each with an owner of its own that may not see the
# other. MLflow and Fairlead must not share one: both keep the number of their schema in a table.
set -euo pipefail

create() {
  psql --username="$POSTGRES_USER" --dbname=postgres --set=ON_ERROR_STOP=1 --set=name="$1" --set=password="$2" <<'SQL'
create role :"name" login password :'password';
create database :"name" owner :"name" encoding 'UTF8' template template0;
revoke connect on database :"name" from public;
SQL
}

create fairlead "$FAIRLEAD_DATABASE_PASSWORD"
create mlflow "$MLFLOW_DATABASE_PASSWORD"
