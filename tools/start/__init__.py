"""From a folder of images to a config that suits it: `python -m tools.start --data-path FOLDER`."""
