%% The Erlang side of nif/own_cpp.cpp.
-module(own_cpp).
-export([load/1, make/1, leak/1, dump/1]).

load(Dir) -> erlang:load_nif(filename:join(Dir, "own_cpp"), 0).

make(_) -> erlang:nif_error(not_loaded).
leak(_) -> erlang:nif_error(not_loaded).
dump(_) -> erlang:nif_error(not_loaded).
