%% The Erlang side of nif/own_z.c.
-module(own_z).
-export([load/1, make/1, leak/1, dump/1]).

load(Dir) -> erlang:load_nif(filename:join(Dir, "own_z"), 0).

make(_) -> erlang:nif_error(not_loaded).
leak(_) -> erlang:nif_error(not_loaded).
dump(_) -> erlang:nif_error(not_loaded).
