<html><body>This is a real Tomcat (<%= application.getServerInfo() %>) on <%= java.net.InetAddress.getLocalHost().getHostName() %>.</body></html>
