-- A table that is not logged can prevent PostgreSQL's recovery: if the transaction that gave it a new file was rolled back right
-- before a crash, its empty file is still there when recovery wants to create it ("could not create file: File exists").
ALTER TABLE room_probe SET LOGGED, SET (fillfactor = 10);
