-- What each generation changed, so that whoever knows a generation can ask for what came after it. The newest lines only.
CREATE TABLE changes (
    generation  INTEGER PRIMARY KEY,
    object_kind TEXT NOT NULL,
    object_id   TEXT NOT NULL
) STRICT;
