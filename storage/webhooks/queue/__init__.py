"""What is to be delivered and how far it has come: units of work on the database, and the rules of trying again."""
