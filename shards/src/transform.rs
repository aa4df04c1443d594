//! From a JSON Schema to typed columns: one pure function of (schema, record).
