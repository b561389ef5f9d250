"""What a DAG file asks for."""
