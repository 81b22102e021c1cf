"""How Sphinx writes the site of `build.py`: https://www.sphinx-doc.org/en/master/usage/configuration.html."""

project = "twinloop: the lesson"
extensions = ["myst_nb"]
html_theme = "furo"
html_title = project
html_theme_options = {"light_css_variables": {"code-font-size": "0.75rem"}}  # 100 columns
html_static_path = []
html_copy_source = False
html_show_sphinx = False
html_show_copyright = False
html_show_search_summary = False  # fetched, which a browser refuses for files
html_scaled_image_link = False
pygments_style = "friendly"
pygments_dark_style = "monokai"

nb_execution_mode = "force"
nb_execution_timeout = 600
nb_execution_raise_on_error = True
nb_execution_show_tb = True
nb_merge_streams = True
nb_ipywidgets_js = {}  # nothing from elsewhere
