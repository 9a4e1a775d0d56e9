"""The whole storage as one archive that restores onto either database, and the move from one database to another."""
