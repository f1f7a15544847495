%% The Erlang side of nif/cxx_nif.cc.
-module(cxx_nif).
-export([load/1, leak/2]).

load(Dir) -> erlang:load_nif(filename:join(Dir, "cxx_nif"), 0).

leak(_Count, _Size) -> erlang:nif_error(not_loaded).
