"""Sphinx's settings of the site. `course book` writes its sources into a folder of their own: see course_lib/book."""

project = "An Introduction to Disentanglement"
copyright = "text CC BY 4.0, code MIT"
html_title = project
language = "en"

extensions = ["myst_nb", "sphinx.ext.mathjax"]
nb_execution_mode = "off"
nb_ipywidgets_js = {}  # what moves needs a kernel; the scripts of widgets would come from another host
myst_enable_extensions = ["attrs_block", "deflist", "dollarmath"]
myst_heading_anchors = 3
myst_heading_slug_func = "course_lib.book.pages.slug"
suppress_warnings = ["ref.python"]  # two lessons may each have a class of one name
mathjax_path = "mathjax/tex-chtml.js"
mathjax3_config = {"options": {"enableMenu": False}}  # the menu would load more scripts

add_module_names = False

html_theme = "furo"
html_static_path = ["static"]
html_css_files = ["style.css"]
html_copy_source = False
html_show_sphinx = True
pygments_style = "a11y-high-contrast-light"
pygments_dark_style = "a11y-high-contrast-dark"
