%% The Erlang side of nif/own_cpp.cpp.
-module(own_cpp).
-export([load/1, make/1, leak/1, dump/1, relic/1, relics/1]).

load(Dir) -> erlang:load_nif(filename:join(Dir, "own_cpp"), 0).

make(_) -> erlang:nif_error(not_loaded).
leak(_) -> erlang:nif_error(not_loaded).
dump(_) -> erlang:nif_error(not_loaded).
relic(_) -> erlang:nif_error(not_loaded).

%% Objects that still hold what is own_c's.
relics(_) -> [ok = relic(own_c:where(What)) || What <- [0, 1, 2]], ok.
