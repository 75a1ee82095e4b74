tf, ours = build("e")
for p in sys.argv[1:]:
    pic = read_picture(Path(p)); t=time.process_time(); m=NativeSize(ours, design(), lambda: None)(pic); print(p, time.process_time()-t, fidelity(m)["mark_correlation"], legibility(m), flush=True)
