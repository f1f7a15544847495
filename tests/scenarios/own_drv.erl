%% The Erlang side of nif/own_drv.c.
-module(own_drv).
-export([load/1, make/1, leak/1, dump/1]).

load(Dir) ->
    ok = erl_ddll:load_driver(Dir, "own_drv"),
    Self = self(),
    spawn(fun() ->
              register(own_drv, self()),
              Port = open_port({spawn_driver, "own_drv"}, []),
              Self ! {own_drv, ready},
              serve(Port)
          end),
    receive {own_drv, ready} -> ok end.

serve(Port) ->
    receive
        {From, Command, Data} ->
            _ = port_control(Port, Command, Data),
            From ! {own_drv, done},
            serve(Port)
    end.

call(Command, Data) ->
    own_drv ! {self(), Command, Data},
    receive {own_drv, done} -> ok end.

make(_) -> call($k, "").
leak(_) -> call($l, "").
dump(File) -> call($d, File).
