-- A conversation's row is some 2 kB, most of it sealed. PostgreSQL would try to compress that, which
-- cannot work, and then put it into a table beside: a row more and an index entry for each mint.
alter table vault.conversations alter column kept set storage external;
alter table vault.conversations set (toast_tuple_target = 8160);
