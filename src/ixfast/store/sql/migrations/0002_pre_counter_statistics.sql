-- Every scan changes its tag's counter, so that busy counters were analysed at each of autovacuum's visits. An analysis holds a
-- snapshot, and for as long nothing that is newer can be pruned: on the busiest pages updates found no room and were no
-- longer heap-only. Nobody needs the statistics, the ledger's plan is pinned.
ALTER TABLE tag_counter SET (autovacuum_analyze_scale_factor = 100);
